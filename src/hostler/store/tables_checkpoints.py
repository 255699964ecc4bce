"""Tables: points of a session to go back to."""
