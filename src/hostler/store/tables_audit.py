"""Which tables keep this? The audit log: entries, chains, signed checkpoints, keys of personal content."""
