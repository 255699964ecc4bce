"""Which tables keep this? What is left of rate limits."""
