"""Submits a run folder exactly once, whatever happens in between."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dynamoc.launcher.slurm import tools
from dynamoc.launcher.slurm.receipts import Receipts

SCRIPT = "emitted/job.sbatch"


class AmbiguousError(tools.SlurmError):
    """Several jobs carry the comment of one run."""


def comment_of(folder: Path) -> str:
    """By which the job of a run is found again; the name of a run folder is given once."""
    return f"dynamoc:{folder.name}"


def submit(folder: Path) -> str:
    """The id of the run's job: the one it has already, or a new one. SlurmError or ReceiptsError."""
    receipts = Receipts(folder)
    with receipts.locked() as lock:
        known = job_of(folder)
        if known is not None:
            return known
        words = _words(folder, receipts)
        receipts.add("intent", comment=comment_of(folder))
        # Whatever goes wrong from here on, the next call asks Slurm whether there is a job: even an error may hide one.
        job = tools.submit(folder, words, keep_open=lock)
        receipts.add("submitted", job=job)
        return job


def _words(folder: Path, receipts: Receipts) -> list[str]:
    """What sbatch is given: with what the job would like to have, or without where Slurm refuses that. RefusedError."""
    needed = [f"--comment={comment_of(folder)}", SCRIPT, str(folder)]
    wished = preferences(folder)
    for words in ([*wished, *needed], needed) if wished else (needed,):
        try:
            tools.check(folder, words)
        except tools.RefusedError as error:
            receipts.add("refused", reason=str(error))
            if words is needed:
                raise
        else:
            break
    return words


def preferences(folder: Path) -> list[str]:
    """Directives of the script that sbatch itself skips: `##SBATCH --segment=4`."""
    lines = (folder / SCRIPT).read_text().splitlines()
    return [
        word
        for line in lines
        if line.startswith("##SBATCH --")
        for word in shlex.split(line.removeprefix("##SBATCH"), comments=True)
    ]


def job_of(folder: Path) -> str | None:
    """The job of a run, None if it never became one. Asks Slurm only where a crash left that open."""
    receipts = Receipts(folder)
    written = receipts.read()
    for receipt in reversed(written):
        if receipt.what == "submitted":
            return receipt.job
        if receipt.what == "refused":
            return None
        if receipt.what == "intent":
            return _found(receipts, receipt.comment, folder)
    return None


def _found(receipts: Receipts, comment: str, folder: Path) -> str | None:
    """After an intent without an answer: Slurm knows, or, of a job it has forgotten, the log."""
    logs = sorted(path.stem.removeprefix("slurm-") for path in folder.glob("slurm-[0-9]*.log"))
    jobs = tools.find(comment) or tuple(logs)
    if len(jobs) > 1:
        raise AmbiguousError(f"jobs {', '.join(jobs)} all carry `{comment}`; cancel all but one")
    if not jobs:
        return None
    receipts.add("submitted", job=jobs[0])
    return jobs[0]


def write_questions(folder: Path, questions: Sequence[str], max_tokens: int) -> None:
    """What the job asks itself; it ends when everything is answered."""
    data = {"questions": list(questions), "max_tokens": max_tokens}
    draft = folder / ".questions.json.draft"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n")
    draft.replace(folder / "questions.json")
