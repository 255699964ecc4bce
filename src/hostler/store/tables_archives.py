"""Tables: what conversations were before they were compacted."""
