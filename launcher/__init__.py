"""Everything with effects off the nodes: the command line and the launchers."""

if __name__ != "dynamoc.launcher":  # the repository root is on the path: two copies of every class would exist
    raise ImportError("import dynamoc.launcher, not launcher")
