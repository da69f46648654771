"""`python -m dynamoc.runtime ROLE …`: the entry of every process a plan starts."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from dynamoc.runtime import process


def main(argv: list[str] | None = None) -> int:
    """Run the agent or one process of a run folder; the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["agent"]:
        from dynamoc.runtime import agent

        return agent.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="dynamoc.runtime")
    parser.add_argument("role", choices=["frontend", "router", "worker"])
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--name", required=True)
    options = parser.parse_args(arguments)
    process.die_with_parent()
    process.set_up_logging(options.name)
    context = process.load_context(options.run_dir, options.name)
    if options.role == "frontend":
        from dynamoc.runtime.frontend import app as role
    elif options.role == "router":
        from dynamoc.runtime.router import app as role  # type: ignore[no-redef]
    else:
        from dynamoc.runtime import worker as role  # type: ignore[no-redef]
    return asyncio.run(role.run(context))


if __name__ == "__main__":
    sys.exit(main())
