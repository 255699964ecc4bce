"""Tables: what is kept of sessions' folders outside of any host."""
