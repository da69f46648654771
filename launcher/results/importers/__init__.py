"""Reads what other load tools wrote, one module a tool, into canonical rows."""
