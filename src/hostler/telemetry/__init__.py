"""What is told about a running server to those who watch it: traces, metrics, logs, and how well it does."""
