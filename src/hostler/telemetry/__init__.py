"""What is told about a running server to those who watch it: traces, metrics, logs, and how well it does.

What is in here is made where it happens, with as little as can be done there (`spans`, `tracing`, `requests`), waits in
a bounded queue (`pipeline`), and goes out from a thread of its own (`otlp`).
"""
