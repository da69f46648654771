"""Dialects: what each engine can do and needs. The registry is `dynamoc.compiler.dialect`."""
