"""Hostler hosts Claude agents in production, on machines you own."""
