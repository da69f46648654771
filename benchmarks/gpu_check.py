"""Everything that only a host with GPUs can prove, in steps of at most ten minutes: tests, sanitizers, benchmarks.

    python benchmarks/gpu_check.py [STEP...] [--list] [--rest]

Without names all steps run; `--rest` leaves out those that passed before at this very commit. Each step is a process of
its own with a limit; what came of it is kept in `results/gpu_check.json`, its words in `results/gpu_check/STEP.log`,
and what a benchmark measured in its own file. At the end a table. Exit status 1 if a step failed, 0 if they passed or
were skipped for want of GPUs or of compute-sanitizer (`pip install dynamoc[sanitizer]`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cuda_run import SKIPPED, against

from dynamoc.runtime.kv.cuda.device import DeviceError, require_devices

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
LIMIT_S = 600
PYTEST = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
KERNELS = ("tests/runtime/kv/test_cuda_copier.py", "tests/runtime/kv/test_cuda_slices.py")
COPY_ENGINE = "tests/runtime/kv/test_copy_engine.py"
TRANSPORTS = ("tests/conformance/test_transports.py", "tests/conformance/test_transport_faults.py")
NO_CHILDREN = ("-k", "not another_process and not not_there")
"""The sanitizer watches one process; and that a GPU is not there is an error of the driver's, on purpose."""
PASSED, CLEAN = r"\b[1-9]\d* passed\b", r"SUMMARY: 0 (errors|hazards)"
FAULT = 97
"""What the sanitizer ends with when it found something."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and how many GPUs it needs."""

    name: str
    gpus: int
    words: tuple[str, ...]
    what: str
    proofs: tuple[str, ...] = ()
    """What its log must hold, as patterns."""
    tool: str = ""
    """A tool of compute-sanitizer that watches it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step."""

    step: str
    outcome: str
    """passed, failed, late or skipped."""
    why: str
    seconds: float
    commit: str
    date: str


def benchmark(name: str, gpus: int, what: str, *more: str, script: str = "") -> Step:
    """A script, of its own name if no other is told, that writes its own results."""
    return Step(name, gpus, (sys.executable, str(HERE / f"{script or name}.py"), *more), what)


def tests(name: str, gpus: int, what: str, *words: str) -> Step:
    """Tests; that none failed is not enough."""
    return Step(name, gpus, (*PYTEST, *words), what, (PASSED,))


def checked(tool: str, what: str) -> Step:
    """Tests of the kernels that a tool of compute-sanitizer watches."""
    return Step(tool, 1, (*PYTEST, *NO_CHILDREN, *KERNELS), what, (PASSED, CLEAN), tool)


STEPS = (
    tests("kernels", 1, "kernels: every size, alignment and layout, sums, deadlines", *KERNELS, COPY_ENGINE),
    tests("tiers", 1, "KV tiers below a device", "tests/runtime/kv/tiers/test_cuda_device.py"),
    tests("engine", 1, "the native engine on a GPU", "tests/runtime/engines/test_engine_cuda.py"),
    tests("kept", 1, "KV that outlives its worker", "-k", "cuda", "tests/runtime/engines/test_kept_engine.py"),
    tests("transport", 1, "conformance of nvlink", "-k", "nvlink", *TRANSPORTS),
    tests("nixl_gpu", 1, "conformance of nixl between memory of GPUs", "-k", "nixl_gpu", *TRANSPORTS),
    tests("reshard", 1, "TP pairs between GPUs", "-k", "between_gpus", "tests/conformance/test_resharding.py"),
    tests("matrix", 1, "every pair of tiers", "tests/conformance/test_matrix.py"),
    tests("pipeline", 2, "prefill and decode on two GPUs", "tests/integration/test_same_text_cuda.py"),
    checked("memcheck", "accesses out of bounds or misaligned"),
    checked("racecheck", "races in shared memory"),
    benchmark("p2p_cuda", 2, "the push kernel over CUDA IPC, NIXL beside it"),
    benchmark("transport_cuda", 2, "the nvlink transport between two processes"),
    benchmark("transport_nixl", 2, "the nixl transport beside it", "--transport", "nixl", script="transport_cuda"),
    benchmark("handoff_cuda", 2, "a prompt's hand-over, whole and by layer groups"),
    benchmark("pipeline_cuda", 2, "exposed time between two real workers"),
    benchmark("reshard_cuda", 2, "TP to TP over NVLink"),
    benchmark("offload_cuda", 1, "device to page-locked host and back"),
    benchmark("interference_cuda", 2, "a decode step beside copies"),
    benchmark("memory_service", 1, "weights that outlive their worker"),
    benchmark("tiers_cuda", 1, "tiers below a device", "--output", str(RESULTS / "tiers_cuda.json")),
)


def sanitizer() -> Path | None:
    """compute-sanitizer: of a CUDA toolkit, or of NVIDIA's wheel, which is whole from 13.5 on."""
    if found := shutil.which("compute-sanitizer"):
        return Path(found)
    return next(Path(sysconfig.get_path("platlib")).glob("nvidia/cu*/compute-sanitizer/compute-sanitizer"), None)


def watched(words: Sequence[str], tool: str, by: Path) -> list[str]:
    """The command under the sanitizer: kernels are judged, calls that are refused on purpose are not."""
    options = ("--target-processes", "application-only", "--report-api-errors", "no", "--error-exitcode", str(FAULT))
    return [str(by), "--tool", tool, *options, *words]


def seen_gpus() -> tuple[int, str]:
    """How many GPUs there are, and why there are none."""
    try:
        return require_devices(), ""
    except DeviceError as error:
        return 0, str(error)


def run(step: Step, commit: str) -> Outcome:
    """One step, with its words in a file."""

    def ended(outcome: str, why: str, seconds: float = 0.0) -> Outcome:
        return Outcome(step.name, outcome, why, round(seconds, 1), commit, datetime.now(UTC).isoformat("T", "seconds"))

    count, why = seen_gpus()
    if count < step.gpus:
        return ended("skipped", why or f"{count} GPUs, not {step.gpus}")
    words, by = list(step.words), sanitizer()
    if step.tool:
        if by is None:
            return ended("skipped", "compute-sanitizer is not here: pip install dynamoc[sanitizer]")
        words = watched(words, step.tool, by)
    log = RESULTS / "gpu_check" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("w") as into:
        process = subprocess.Popen(words, cwd=ROOT, stdout=into, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return ended("late", f"not done within {LIMIT_S} s", LIMIT_S)
    seconds = time.monotonic() - began
    if status == SKIPPED:
        return ended("skipped", last_line(log), seconds)
    missing = [proof for proof in step.proofs if not re.search(proof, log.read_text(errors="replace"))]
    if status or missing:
        return ended("failed", f"status {status}: {last_line(log)}", seconds)
    return ended("passed", last_line(log) if step.proofs else "", seconds)


def last_line(log: Path) -> str:
    """What a step said last."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it said nothing"


def commit() -> str:
    """The commit that is checked out; with a plus if files other than results differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def passed_at(commit: str, outcomes: dict[str, Outcome]) -> set[str]:
    """Steps that need not run again; none where files differ from the commit."""
    if not commit.isalnum() or commit == "unknown":
        return set()
    return {name for name, was in outcomes.items() if (was.outcome, was.commit) == ("passed", commit)}


def kept(path: Path) -> dict[str, Outcome]:
    """What earlier runs came to."""
    return {row["step"]: Outcome(**row) for row in json.loads(path.read_text())} if path.exists() else {}


def keep(path: Path, outcomes: dict[str, Outcome]) -> None:
    """Write it in one piece, in the order of the steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(outcomes[step.name]) for step in STEPS if step.name in outcomes]
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(rows, indent=2) + "\n")
    temporary.replace(path)


def table(outcomes: dict[str, Outcome]) -> str:
    """A line a step."""
    found = [(step, outcomes[step.name]) for step in STEPS if step.name in outcomes]
    lines = [f"{step.name:18} {was.outcome:8} {was.seconds:6.1f}  {was.why or step.what}" for step, was in found]
    return "\n".join([f"{'step':18} {'outcome':8} {'s':>6}  of", *lines])


def targets() -> str:
    """A line for each figure that has a target, from the files of all benchmarks, this run's or an earlier one's."""
    rows = [row for path in sorted(RESULTS.glob("*_cuda.json")) for row in json.loads(path.read_text())]
    lines = []
    for row in rows:
        if (target := row.get("target")) is not None:
            verdict = against(row["ours"], target, most=row["unit"].startswith("ms"))
            lines.append(f"{row['figure']:86} {row['ours']:8} {row['unit']:9} target {target:<7g} {verdict}")
    return "\n".join(lines)


def main() -> int:
    """Run what was asked for, tell, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--rest", action="store_true", help="leave out what passed before at this commit")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu_check.json")
    options = parser.parse_args()
    if unknown := set(options.steps) - {step.name for step in STEPS}:
        parser.error(f"there is no step {', '.join(sorted(unknown))}: see --list")
    if options.list:
        print("\n".join(f"{step.name:18} {step.gpus} GPU{'s' * (step.gpus > 1)}  {step.what}" for step in STEPS))
        return 0
    outcomes, now = kept(options.output), commit()
    done = passed_at(now, outcomes) if options.rest else set()
    chosen = [step for step in STEPS if step.name in (options.steps or [step.name]) and step.name not in done]
    for step in chosen:
        print(f"{step.name}: {step.what} …", flush=True)
        outcomes[step.name] = run(step, now)
        print(f"  {outcomes[step.name].outcome} {outcomes[step.name].why}".rstrip(), flush=True)
        keep(options.output, outcomes)
    print("\n" + table({step.name: outcomes[step.name] for step in chosen}))
    print("\n" + targets())
    return int(any(outcomes[step.name].outcome in ("failed", "late") for step in chosen))


if __name__ == "__main__":
    sys.exit(main())
