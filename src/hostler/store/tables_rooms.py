"""Tables: which sessions share a sandbox and its files."""
