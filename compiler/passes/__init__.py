"""Passes: one rule or one decision a file. Their order is in `dynamoc.compiler.pipeline`."""
