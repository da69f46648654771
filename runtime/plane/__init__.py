"""Connections between the processes of a run, and the messages they carry."""
