"""Which tables keep this? What sandboxes cost by the second, and what did not agree."""
