"""Which tables keep this? What may be spent, and what is set aside of it."""
