"""The command line: a group that imports a command only when it is called, and turns bugs into bug reports."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from keyword import iskeyword

import click

from dynamoc import __version__

COMMANDS: dict[str, str] = {
    "check": "Prove a spec: every error at once.",
    "plan": "Show who runs where.",
    "graph": "Draw the pipeline.",
    "compile": "Write the artifacts of a target.",
    "diff": "Show what two specs, or what became of them, do not share.",
    "up": "Compile for this machine and run it.",
    "submit": "Compile for Slurm and submit, once.",
    "cancel": "End a submitted run.",
    "sweep": "Measure every point of a campaign.",
    "status": "Show the state of a run.",
    "logs": "Show the logs of a run.",
    "report": "Show what campaigns and runs came to.",
    "capacity": "Say how many workers a demand takes, from what was measured.",
    "explain": "Explain an error code.",
    "inventory": "Write a cluster file from what a scheduler says.",
    "import": "Turn recipes of other systems into specs.",
    "results": "Import results of other load tools, and judge results.",
    "doctor": "Examine this host: --kv measures its paths.",
    "schema": "Print the JSON schema of specs, or of campaigns.",
    "model": "Fetch or convert models.",
}

EXIT_BUG = 3
OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Imports make many objects and no garbage: a command is over before a collection pays."""


class LazyGroup(click.Group):
    """Lists commands from the table; loads `dynamoc.launcher.commands.<name>` on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order of a user's work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; a misspelt one is answered with the nearest."""
        if cmd_name not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(cmd_name, COMMANDS, 1)
            help_text = f"; did you mean `{near[0]}`?" if near else ""
            ctx.fail(f"no command `{cmd_name}`{help_text}")
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        module = importlib.import_module(f"dynamoc.launcher.commands.{name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dynamoc")
def root() -> None:
    """Prove, compile and run LLM inference pipelines from one YAML graph."""


def main() -> None:
    """Exit 0 fine, 1 the spec or the run is wrong, 2 usage, 3 our bug."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    atexit.register(gc.freeze)  # else the interpreter searches everything for garbage before it ends
    try:
        root()
    except Exception:  # noqa: BLE001  # the one place where a bug is caught: it becomes a report, not a crash
        import traceback

        traceback.print_exc()
        print(
            f"\nThis is a bug in dynamoc {__version__}. Please report the lines above with the spec that caused them.",
            file=sys.stderr,
        )
        sys.exit(EXIT_BUG)
