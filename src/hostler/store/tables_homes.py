"""Tables: where the newest files of a session are."""
