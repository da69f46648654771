"""What runs on the nodes: agent, frontend, router, workers, engines, KV path."""

if __name__ != "dynamoc.runtime":  # the repository root is on the path: two copies of every class would exist
    raise ImportError("import dynamoc.runtime, not runtime")
