"""aiconfigurator as an estimator: an interpreter of its own environment, asked with a deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dynamoc.launcher.prediction.question import Answers, Question
from dynamoc.runtime import environment

CHILD = Path(__file__).with_name("child.py")
START_S = 120.0
"""For its imports and its tables, from a cold disk."""
QUESTION_S = 30.0
SHOWN_LINES = 5


class PredictionError(Exception):
    """No estimate: the estimator is not there, or did not answer as it must."""


@dataclass(frozen=True, slots=True)
class Aiconfigurator:
    """The estimator behind `interpreter`; `start_s` and `question_s` bound how long it may take."""

    interpreter: Path
    start_s: float = START_S
    question_s: float = QUESTION_S

    def ask(self, questions: Sequence[Question]) -> Answers:
        """One answer a question, in order; PredictionError. No process of it is left."""
        said = self._run(msgspec.json.encode(questions), self.start_s + self.question_s * len(questions))
        try:
            answers = msgspec.json.decode(said, type=Answers)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PredictionError(f"aiconfigurator answered what is no answer ({error}): {said[:80]!r}") from error
        if [answer.id for answer in answers.answers] != [question.id for question in questions]:
            raise PredictionError("aiconfigurator answered other questions than it was asked")
        return answers

    def _run(self, said: bytes, deadline_s: float) -> bytes:
        try:
            process = subprocess.Popen(
                [str(self.interpreter), "-I", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise PredictionError(f"{self.interpreter} cannot be run: {error.strerror}") from error
        try:
            out, noise = process.communicate(said, deadline_s)
        except subprocess.TimeoutExpired as error:
            raise PredictionError(f"aiconfigurator did not answer within {deadline_s:g} s") from error
        finally:
            _end(process)
        if process.returncode:
            lines = [line for line in noise.decode(errors="replace").splitlines() if line.strip()]
            last = " | ".join(lines[-SHOWN_LINES:]) or "it said nothing"
            raise PredictionError(f"aiconfigurator ended with {process.returncode}: {last}")
        return out


def installed() -> Aiconfigurator:
    """The estimator on this machine; PredictionError says how to get it."""
    path = Path(environment.read("DYNAMOC_AICONFIGURATOR")).expanduser()
    if not path.is_file():
        raise PredictionError(
            f"there is no aiconfigurator: no interpreter at {path}; `make aiconfigurator` installs it, "
            "DYNAMOC_AICONFIGURATOR names the interpreter of another environment"
        )
    return Aiconfigurator(path)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and all it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
