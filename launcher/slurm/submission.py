"""Submits a run folder exactly once, whatever happens in between."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dynamoc.launcher.slurm import tools
from dynamoc.launcher.slurm.receipts import Receipts

SCRIPT = "emitted/job.sbatch"


class AmbiguousError(tools.SlurmError):
    """Several jobs carry the comment of one run."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Which job of a run: the first has number 0, and any other goes on `after` one that was cut short."""

    number: int = 0
    after: str = ""
    excluded: tuple[str, ...] = ()

    def words(self, folder: Path) -> list[str]:
        """What sbatch needs to be given."""
        again = [f"--dependency=afterany:{self.after}"] if self.after else []
        again += [f"--exclude={','.join(self.excluded)}"] if self.excluded else []
        return [*again, f"--comment={comment_of(folder, self.number)}", SCRIPT, str(folder), str(self.number)]


def comment_of(folder: Path, number: int = 0) -> str:
    """By which a job of a run is found again; the name of a run folder is given once."""
    return f"dynamoc:{folder.name}" + (f"/{number}" if number else "")


def submit(folder: Path, retries: int = 0) -> str:
    """The id of the run's job: the latest it has already, or a new one. SlurmError or ReceiptsError.

    `retries` is how many jobs may follow it, should it be cut short.
    """
    receipts = Receipts(folder)
    with receipts.locked() as lock:
        known = job_of(folder)
        return known if known is not None else _submit(folder, receipts, Attempt(), lock, retries)


def submit_again(folder: Path, after: str, lost: tuple[str, ...]) -> str:
    """The id of the job that goes on after another, without the nodes that were `lost`; once. As `submit` raises."""
    receipts = Receipts(folder)
    with receipts.locked() as lock:
        known = job_of(folder)
        if known is not None and known != after:
            return known
        excluded = tuple(dict.fromkeys((*receipts.excluded(), *lost)))
        return _submit(folder, receipts, Attempt(len(receipts.jobs()), after, excluded), lock, receipts.retries())


def _submit(folder: Path, receipts: Receipts, attempt: Attempt, lock: int, retries: int) -> str:
    words = _words(folder, receipts, attempt)
    comment = comment_of(folder, attempt.number)
    receipts.add("intent", comment=comment, retries=retries, after=attempt.after, excluded=attempt.excluded)
    # Whatever goes wrong from here on, the next call asks Slurm whether there is a job: even an error may hide one.
    job = tools.submit(folder, words, keep_open=lock)
    receipts.add("submitted", job=job)
    return job


def _words(folder: Path, receipts: Receipts, attempt: Attempt) -> list[str]:
    """What sbatch is given: with what the job would like to have, or without where Slurm refuses that. RefusedError."""
    needed = attempt.words(folder)
    wished = preferences(folder)
    if wished:
        try:
            tools.check(folder, [*wished, *needed])
        except tools.RefusedError as error:
            receipts.add("without", comment=" ".join(wished), reason=str(error))
        else:
            return [*wished, *needed]
    try:
        tools.check(folder, needed)
    except tools.RefusedError as error:
        receipts.add("refused", reason=str(error))
        raise
    return needed


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
    """The latest job of a run, None if it never became one. Asks Slurm only where a crash left that open."""
    receipts = Receipts(folder)
    written = receipts.read()
    for receipt in reversed(written):
        if receipt.what == "submitted":
            return receipt.job
        if receipt.what == "intent":
            return _found(receipts, receipt.comment, folder)
    return None


def _found(receipts: Receipts, comment: str, folder: Path) -> str | None:
    """After an intent without an answer: Slurm knows, or, of a job it has forgotten, the log."""
    logs = sorted(path.stem.removeprefix("slurm-") for path in folder.glob("slurm-[0-9]*.log"))
    known = receipts.jobs()
    jobs = tools.find(comment) or tuple(job for job in logs if job not in known)
    if len(jobs) > 1:
        raise AmbiguousError(f"jobs {', '.join(jobs)} all carry `{comment}`; cancel all but one")
    if not jobs:
        return known[-1] if known else None
    receipts.add("submitted", job=jobs[0])
    return jobs[0]


def write_questions(folder: Path, questions: Sequence[str], max_tokens: int) -> None:
    """What the job asks itself; it ends when everything is answered."""
    data = {"questions": list(questions), "max_tokens": max_tokens}
    draft = folder / ".questions.json.draft"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n")
    draft.replace(folder / "questions.json")
