"""Text in, text out: from a spec to a plan and to artifacts."""

if __name__ != "dynamoc.compiler":  # the repository root is on the path: two copies of every class would exist
    raise ImportError("import dynamoc.compiler, not compiler")
