"""What stands between `dynamoc` and Slurm: states, receipts, and the address of a node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dynamoc.launcher.slurm import tools
from dynamoc.launcher.slurm.receipts import Receipts, ReceiptsError
from dynamoc.launcher.slurm.states import STATES, Phase, meaning_of, meaning_of_exit
from dynamoc.launcher.slurm.submission import job_of
from dynamoc.runtime.agent.address import AddressError, of_interface, usable

# The job states of Slurm's manuals, 22.05 to 24.11, base states and flags.
EVERY_STATE = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "CONFIGURING",
    "COMPLETING",
    "DEADLINE",
    "FAILED",
    "LAUNCH_FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PENDING",
    "POWER_UP_NODE",
    "PREEMPTED",
    "RECONFIG_FAIL",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "REQUEUED",
    "RESIZING",
    "RESV_DEL_HOLD",
    "REVOKED",
    "RUNNING",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
    "TIMEOUT",
]


def test_the_table_holds_every_state() -> None:
    assert set(STATES) == set(EVERY_STATE)


@pytest.mark.parametrize("state", EVERY_STATE)
def test_no_known_state_is_unknown(state: str) -> None:
    assert meaning_of(state)[0] is not Phase.UNKNOWN


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("CANCELLED by 1000", Phase.CANCELLED),
        ("RUNNING+COMPLETING", Phase.ENDING),
        ("HIBERNATING", Phase.UNKNOWN),
        ("", Phase.UNKNOWN),
    ],
)
def test_states_as_slurm_prints_them(state: str, phase: Phase) -> None:
    assert meaning_of(state)[0] is phase


def test_nothing_is_concluded_from_an_unknown_state() -> None:
    assert not Phase.UNKNOWN.is_over
    assert "HIBERNATING" in meaning_of("HIBERNATING")[1]


@pytest.mark.parametrize(
    ("code", "words"),
    [("0:0", ""), ("1:0", "the run failed"), ("75:0", "before all was asked"), ("0:9", "signal 9"), ("42:0", "42")],
)
def test_exit_codes_have_words(code: str, words: str) -> None:
    assert words in meaning_of_exit(code)
    assert bool(meaning_of_exit(code)) == bool(words)


def test_a_receipt_that_was_cut_off_is_none_and_hides_no_other(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path)
    receipts.add("intent", comment="dynamoc:x")
    with receipts.path.open("a") as file:
        file.write('{"what":"submi')
    assert [receipt.what for receipt in receipts.read()] == ["intent"]

    receipts.add("submitted", job="7")
    assert [receipt.what for receipt in receipts.read()] == ["intent", "submitted"]


def test_receipts_that_are_none_are_said_to_be(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path)
    receipts.path.write_text("hello\n")
    with pytest.raises(ReceiptsError, match=r"receipts\.jsonl"):
        receipts.read()


def test_a_run_that_was_refused_has_no_job(tmp_path: Path) -> None:
    assert job_of(tmp_path) is None
    Receipts(tmp_path).add("refused", reason="no such partition")
    assert job_of(tmp_path) is None


def test_a_refusal_hides_no_job_before_it(tmp_path: Path) -> None:
    """The job that was to go on was refused: the run still has its first, and must not get another first one."""
    receipts = Receipts(tmp_path)
    receipts.add("intent", comment="dynamoc:x", retries=2)
    receipts.add("submitted", job="7")
    receipts.add("refused", reason="no such partition")

    assert job_of(tmp_path) == "7"
    assert receipts.jobs() == ("7",)
    assert receipts.retries() == 2


def test_the_last_submission_counts(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path)
    receipts.add("intent", comment="dynamoc:x")
    receipts.add("submitted", job="7")
    receipts.add("cancel", job="7")
    assert job_of(tmp_path) == "7"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "169.254.3.4", "0.0.0.0"])
def test_addresses_that_others_cannot_reach_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match="cannot be reached from other nodes"):
        usable(address)


def test_an_interface_has_its_address_and_an_unknown_one_is_answered_with_those_there_are() -> None:
    assert of_interface("lo") == "127.0.0.1"
    with pytest.raises(AddressError, match=r"interface `eth77` has no address .*there are .*lo"):
        of_interface("eth77")


def test_the_command_says_why_there_is_no_address() -> None:
    words = [sys.executable, "-m", "dynamoc.runtime.agent.address", "--interface=lo"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "127.0.0.1 cannot be reached from other nodes; name an `interface`" in done.stderr


def test_tasks_of_an_array_are_read_one_by_one_and_those_that_wait_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "JobId=9 ArrayJobId=7 ArrayTaskId=4-5,8%3 JobName=x JobState=PENDING Reason=Resources Restarts=0 ExitCode=0:0",
        "JobId=8 ArrayJobId=7 ArrayTaskId=0 JobState=FAILED Reason=NonZeroExitCode ExitCode=75:0 NodeList=node[2-3]",
    ]
    (tmp_path / "scontrol").write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    waiting, failed = tools.look_tasks("7")

    assert waiting.numbers == (4, 5, 8)
    assert str(waiting.job) == "job 7_4-5,8%3 waits for its nodes (PENDING): Resources"
    assert failed.numbers == (0,)
    assert str(failed.job) == ("job 7_0 failed (FAILED) on node[2-3]: it was told to stop before all was asked")


def test_what_slurm_says_is_shown_without_the_name_of_the_tool_on_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "sbatch: error: Batch job submission failed: A"
    said = f"{line}\\n{line}\\nsbatch: fatal: B\\n"
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\nprintf '{said}' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(tools.RefusedError, match=r"^`sbatch`: Batch job submission failed: A; B$"):
        tools.check(tmp_path, [])
