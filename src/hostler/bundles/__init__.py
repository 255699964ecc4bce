"""How does a session travel from one installation to another? As one file that others can read, too.

The format is described in docs/reference/bundle-format.md.
"""
