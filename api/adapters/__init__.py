"""Adapters: what jobs published."""
