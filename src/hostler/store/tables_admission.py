"""Tables: which sessions are live where, and which wait for a place."""
