"""A probe is a module run in a process of its own, which may hang or die: it prints why not, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence

from dynamoc.runtime.transports.protocol import TransportError


async def ask_child(subject: str, module: str, words: Sequence[str], question: bytes, limit_s: float) -> None:
    """TransportError, beginning with `subject`, if the child says why not, or nothing within the limit."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *words, stdin=pipe, stdout=pipe)
    try:
        answer, _ = await asyncio.wait_for(child.communicate(question), limit_s)
    except TimeoutError as error:
        raise TransportError(f"{subject}: no answer from the probe within {limit_s:g} s") from error
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode or answer:
        reason = answer.decode(errors="replace").strip() or f"the probe ended with {child.returncode}"
        raise TransportError(f"{subject}: {reason}")
