"""What a user sees of processes that start, restart and stop."""

from __future__ import annotations

import io

from rich.console import Console

from dynamoc.launcher.board import Lines, board
from dynamoc.runtime.agent.record import ProcessStatus, State


def process(name, state, **fields):
    return ProcessStatus(
        name=name, component="c", role="decode", replica=0, state=state, since=0.0, host="h", ports={}, **fields
    )


def test_lines_tell_each_change_once():
    console = Console(file=io.StringIO())
    with board(console) as shown:
        assert isinstance(shown, Lines)
        shown.show([process("d", State.WAITING)])
        for _ in range(3):
            shown.show([process("d", State.STARTING, what="loading weights", fraction=0.5)])
        shown.show([process("d", State.READY)])
        shown.show([process("d", State.RESTARTING, reason="killed by [SIGKILL]")])
        shown.show([process("d", State.READY, incarnation=1)])
    assert console.file.getvalue().splitlines() == [
        "d: loading weights",
        "d: ready",
        "d: restarting: killed by [SIGKILL]",
        "d: ready (incarnation 1)",
    ]


def test_what_is_known_is_not_told_again():
    console = Console(file=io.StringIO())
    with board(console, [process("d", State.READY), process("e", State.READY)]) as shown:
        shown.show([process("d", State.READY), process("e", State.DRAINING)])
    assert console.file.getvalue() == "e: draining\n"


def test_bars_on_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with board(console) as shown:
        shown.show([process("decode-0", State.STARTING, what="loading [weights]", fraction=0.5)])
        shown.show([process("decode-0", State.READY), process("p", State.FAILED, reason="no memory")])
    text = console.file.getvalue()
    assert "decode-0" in text and "ready" in text and "failed: no memory" in text
