"""Tables: what is removed after a while, and when that was last done."""
