"""`python -m dynamoc.runtime ROLE …`: the entry of every process a plan starts."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
from pathlib import Path

from dynamoc.runtime import process

ROLES = {
    "frontend": "dynamoc.runtime.frontend.app",
    "router": "dynamoc.runtime.router.app",
    "worker": "dynamoc.runtime.worker.app",
    "launch": "dynamoc.runtime.launch.app",
}
"""Each module has `async def run(context: Context) -> int`, the exit status; one may bring its `new_event_loop`."""


def main(argv: list[str] | None = None) -> int:
    """Run the agent, a rank, or one process of a run folder; the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["agent"]:
        from dynamoc.runtime.agent.app import main as agent_main

        return agent_main(arguments[1:])
    if arguments[:1] == ["rank"]:
        from dynamoc.runtime.launch.rank import main as rank_main

        return rank_main(arguments[1:])
    parser = argparse.ArgumentParser(prog="dynamoc.runtime")
    parser.add_argument("role", choices=list(ROLES))
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--name", required=True)
    options = parser.parse_args(arguments)
    process.die_with_parent()
    process.set_up_logging(options.name)
    context = process.load_context(options.run_dir, options.name)
    role = importlib.import_module(ROLES[options.role])
    with asyncio.Runner(loop_factory=getattr(role, "new_event_loop", None)) as runner:
        status: int = runner.run(role.run(context))
    return status


if __name__ == "__main__":
    sys.exit(main())
