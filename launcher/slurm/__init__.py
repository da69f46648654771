"""Slurm by its command-line tools: submit once, look, cancel."""
