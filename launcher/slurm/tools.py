"""Slurm's command-line tools, each call with a deadline; their text forms are the same in every version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamoc.launcher.slurm.states import Phase, meaning_of, meaning_of_exit

DEADLINE_S = 60.0
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z/:]*)=(\S*)")
_JOB = re.compile(r"([0-9]+)(;\S+)?")
_UNREACHABLE = re.compile(
    r"contact slurm|connect|timed out|zero bytes|communication|configuration source", re.IGNORECASE
)
_GONE = re.compile(r"down|drain|fail|unknown|\*", re.IGNORECASE)
_SAID_BY = re.compile(r"^[a-z]+: (error|fatal): ")
NO_SUCH_JOB = "Invalid job id"
OF_A_TASK = "_"
"""Between the id of an array and the number of a task."""
OF_THE_FIRST = "+0"
"""Behind the id of a heterogeneous job's first component, which is the id of the job."""


class SlurmError(Exception):
    """A tool is missing, did not answer, or refused; the message is for the user."""


class RefusedError(SlurmError):
    """Slurm answered, and will not take this job."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Slurm has it now."""

    id: str
    state: str
    reason: str = ""
    exit_code: str = "0:0"
    nodes: str = ""
    restarts: int = 0

    @property
    def phase(self) -> Phase:
        """How far it is."""
        return meaning_of(self.state)[0]

    def __str__(self) -> str:
        words = f"job {self.id} {meaning_of(self.state)[1]} ({self.state})"
        words += f" on {self.nodes}" if self.nodes else ""
        if self.phase is Phase.QUEUED and self.reason:
            words += f": {self.reason}"
        said = meaning_of_exit(self.exit_code) if self.state == "FAILED" else ""
        return f"{words}: {said}" if said else words


@dataclass(frozen=True, slots=True)
class Task:
    """Tasks of an array that Slurm speaks of as one: those that wait are together until they start."""

    numbers: tuple[int, ...]
    job: Job


def check(folder: Path, words: Sequence[str]) -> str:
    """When the job could start, by `sbatch --test-only`; RefusedError with Slurm's reason."""
    return _call(["sbatch", "--test-only", *words], folder).stderr.strip().removeprefix("sbatch: ")


def submit(folder: Path, words: Sequence[str], keep_open: int) -> str:
    """Submit from `folder`; the job's id. The tool holds `keep_open` for as long as it may still submit."""
    done = _call(["sbatch", "--parsable", *words], folder, environment=_with_python(), keep_open=(keep_open,))
    found = _JOB.fullmatch(done.stdout.strip())
    if found is None:
        raise SlurmError(f"`sbatch --parsable` did not answer with a job id: {done.stdout.strip()!r}")
    return found[1]


def find(comment: str) -> tuple[str, ...]:
    """Ids of this user's jobs with a comment, as far back as the controller remembers."""
    user = str(os.getuid())
    lines = _call(["squeue", "--noheader", f"--user={user}", "--states=all", "--format=%i|%k"]).stdout.splitlines()
    found = (line.strip().partition("|") for line in lines)
    leading = (job.removesuffix(OF_THE_FIRST).partition(OF_A_TASK)[0] for job, _, said in found if said == comment)
    return tuple(dict.fromkeys(job for job in leading if job.isdecimal()))


def look(job: str) -> Job | None:
    """The job, from the controller or else from accounting; None where neither knows it any more."""
    try:
        text = _call(["scontrol", "show", "job", "--oneliner", job]).stdout
    except RefusedError as error:
        if NO_SUCH_JOB not in str(error):
            raise
        return _from_accounting(job)
    components = _records(text)
    nodes = (component.get("NodeList", "") for component in components)
    return _job(job, components[0] if components else {}, nodes)


def look_tasks(job: str) -> tuple[Task, ...]:
    """The tasks of an array, from the controller; none where it does not know the array any more."""
    try:
        text = _call(["scontrol", "show", "job", "--oneliner", job]).stdout
    except RefusedError as error:
        if NO_SUCH_JOB not in str(error):
            raise
        return ()
    records = (record for record in _records(text) if "ArrayTaskId" in record)
    return tuple(
        Task(_numbers(of := record["ArrayTaskId"]), _job(f"{job}{OF_A_TASK}{of}", record, [record.get("NodeList", "")]))
        for record in records
    )


def _records(text: str) -> list[dict[str, str]]:
    return [dict(_FIELD.findall(line)) for line in text.splitlines() if line.strip()]


def _job(job: str, fields: Mapping[str, str], nodes: Iterable[str]) -> Job:
    return Job(
        id=job,
        state=fields.get("JobState", ""),
        reason="" if fields.get("Reason") == "None" else fields.get("Reason", ""),
        exit_code=fields.get("ExitCode", "0:0"),
        restarts=int(fields.get("Restarts", "0")),
        nodes=",".join(names for names in nodes if names not in ("", "(null)")),
    )


def _numbers(text: str) -> tuple[int, ...]:
    """0, 1, 2 and 5 of `0-2,5%3`."""
    ranges = (part.partition("-") for part in text.partition("%")[0].split(","))
    return tuple(n for low, _, high in ranges for n in range(int(low), int(high or low) + 1))


def lost_nodes(nodes: str) -> tuple[str, ...]:
    """Those of some nodes that are down, do not answer, or are being taken away."""
    lines = _call(["sinfo", "--noheader", "--Node", f"--nodes={nodes}", "--format=%N|%T"]).stdout.splitlines()
    found = (line.strip().partition("|") for line in lines)
    return tuple(dict.fromkeys(name for name, _, state in found if _GONE.search(state)))


def drain(job: str) -> None:
    """Ask the job's script to drain and end."""
    _call(["scancel", "--batch", "--signal=USR1", job])


def cancel(job: str) -> None:
    """End the job."""
    _call(["scancel", job])


def cancel_waiting(job: str) -> None:
    """End what of an array has not begun."""
    _call(["scancel", "--state=PENDING", job])


def _from_accounting(job: str) -> Job | None:
    words = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State,ExitCode,NodeList", f"--jobs={job}"]
    try:
        lines = _call(words).stdout.splitlines()
    except RefusedError:  # no accounting here
        return None
    if not lines:
        return None
    state, exit_code, nodes = lines[-1].split("|")
    return Job(job, state, exit_code=exit_code, nodes=nodes)


def _with_python() -> Mapping[str, str]:
    """The nodes use this interpreter, unless the site or the user names another."""
    return {"PYTHON": sys.executable, **os.environ}


def _call(
    words: Sequence[str],
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    keep_open: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    program = shutil.which(words[0])
    if program is None:
        raise SlurmError(f"`{words[0]}` is not on this machine")
    try:
        done = subprocess.run(
            [program, *words[1:]],
            cwd=folder,
            env=environment,
            pass_fds=keep_open,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"`{words[0]}` did not answer within {DEADLINE_S:g} s") from error
    if done.returncode:
        said = _said(words[0], done.stderr) or f"exit status {done.returncode}"
        raise (SlurmError if _UNREACHABLE.search(said) else RefusedError)(f"`{words[0]}`: {said}")
    return done


def _said(tool: str, text: str) -> str:
    """What a tool said, without its own name before every line."""
    lines = (_SAID_BY.sub("", line.strip()) for line in text.splitlines())
    return "; ".join(line for line in dict.fromkeys(lines) if line).removeprefix(f"{tool}: ")
