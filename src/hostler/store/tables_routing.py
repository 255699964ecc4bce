"""Which tables keep this? Which model a request gets."""
