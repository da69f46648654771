"""Measures the ways KV blocks can take on this host, by the code that moves them in service."""
