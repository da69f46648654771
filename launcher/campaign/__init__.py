"""Runs campaigns: keeps what came of every point, survives its own end, and goes on where it was."""
