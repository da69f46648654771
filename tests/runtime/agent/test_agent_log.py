"""What a log says of a start, and how long it may become."""

from __future__ import annotations

import time

import pytest

from dynamoc.runtime.agent.log import Log, pattern_of
from dynamoc.runtime.agent.markers import MARKERS, marker_in

LINES = {
    "a GPU is out of memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "a GPU failed": "RuntimeError: CUDA error: an illegal memory access was encountered",
    "NCCL failed": "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2021, unhandled cuda error",
    "a port is taken": "OSError: [Errno 98] Address already in use",
    "a file is missing": "FileNotFoundError: [Errno 2] No such file or directory: '/models/x/config.json'",
    "a file cannot be read": "PermissionError: [Errno 13] Permission denied: '/models/x'",
    "the disk is full": "OSError: [Errno 28] No space left on device",
    "memory ran out": "RuntimeError: [enforce fail] DefaultCPUAllocator: Cannot allocate memory",
    "a library does not fit": "ImportError: libcudart.so.13: cannot open shared object file",
    "a module is missing": "ModuleNotFoundError: No module named 'flashinfer'",
    "the processor lacks an instruction": "Fatal: Illegal instruction (core lost)",
    "it crashed": "Segmentation fault",
    "the weights are refused": "huggingface_hub.errors.GatedRepoError: 403",
}


def test_every_marker_has_a_line_here() -> None:
    assert set(LINES) == set(MARKERS)


@pytest.mark.parametrize("meaning", MARKERS)
def test_a_marker_is_found_among_other_lines(meaning: str) -> None:
    found = marker_in(f"loading\n{LINES[meaning]}\nbye\n")
    assert found is not None
    assert found == f"{meaning} ({LINES[meaning]})"


@pytest.mark.parametrize(
    "line",
    [
        "INFO listening on 0.0.0.0:8000",
        "loaded 12 files in 3 s",
        "KV cache: 1.2 GiB of GPU memory",
        "CUDA graphs captured",
    ],
)
def test_ordinary_lines_are_no_markers(line: str) -> None:
    assert marker_in(line) is None


def test_only_silence_after_a_marker_is_hopeless(tmp_path) -> None:
    path = tmp_path / "log"
    path.write_text("hello\n")
    log = Log(path)
    time.sleep(0.12)
    assert log.hopeless(0.1) is None, "silence alone says nothing"

    with path.open("a") as file:
        file.write("OSError: [Errno 98] Address already in use\n")
    assert log.hopeless(0.1) is None, "it may go on"
    with path.open("a") as file:
        file.write("trying the next port\n")
    assert log.hopeless(0.1) is None
    time.sleep(0.12)
    assert "a port is taken" in str(log.hopeless(0.1))


def test_a_log_is_bounded_and_keeps_what_was_last(tmp_path) -> None:
    path = tmp_path / "log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 100)
        log = Log(path)
        log.bound(limit_bytes=1000)
        assert path.stat().st_size == 400
        log.bound(limit_bytes=100)
        writer.write(b"new\n")

    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "log.1").read_bytes() == b"old\n" * 100
    assert log.last_lines(3) == "new\n"


def test_failures_are_alike_whatever_their_numbers() -> None:
    assert pattern_of("2026-01-02 pid 17 at 0xff12: boom\n\n") == pattern_of("2027-03-04 pid 9 at 0xab: boom\n")
    assert pattern_of("boom\n") != pattern_of("bang\n")
    assert pattern_of("") == ""
