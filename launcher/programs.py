"""Programs of schedulers, asked with a deadline."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from dynamoc.launcher.discovery import DiscoveryError

DEADLINE_S = 60.0


def ask(words: Sequence[str]) -> str:
    """The answer of a program; DiscoveryError says why there is none."""
    program = shutil.which(words[0])
    if program is None:
        raise DiscoveryError(f"`{words[0]}` is not on this machine")
    call = [program, *words[1:]]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DiscoveryError(f"`{' '.join(words)}` did not answer ({error})") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise DiscoveryError(f"`{' '.join(words)}` failed: {said[-1]}")
    return done.stdout
