"""Targets: where a plan runs. The registry is `dynamoc.compiler.target`."""
