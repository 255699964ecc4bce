"""The command line: `hostler serve`, `run`, `sessions`, `key`, `doctor`, `rehearse`, `version`.

Modules here are imported by the command that needs them, not at the top: a command should start in a tenth of a second.
"""
