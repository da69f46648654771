"""The estimator's process: programs that stand in for its interpreter, and the real one where it is installed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec
import pytest

from dynamoc.launcher.prediction.aiconfigurator import Aiconfigurator, PredictionError, installed
from dynamoc.launcher.prediction.question import PoolSizes, Question
from dynamoc.runtime import environment

POOL = PoolSizes(system="h200_sxm", tp=4, pp=1, dp=1, moe_tp=None, moe_ep=None, workers=7, batch=32)
QUESTION = Question(
    id="c224",
    model="Qwen/Qwen3-32B-FP8",
    engine="vllm",
    version="0.24.0",
    isl=4000,
    osl=500,
    prefix=0,
    concurrency=224,
    kv_format=None,
    context_tokens=None,
    pool=POOL,
    prefill=msgspec.structs.replace(POOL, tp=1, workers=4, batch=1),
)
ANSWER = '{"id": "c224", "ttft_ms": 509.2, "tpot_ms": 28.8, "request_ms": 14874.4, "version": "0.24.0"}'


def stand_in(tmp_path: Path, body: str, start_s: float = 60.0) -> Aiconfigurator:
    """An estimator whose interpreter is this program."""
    program = tmp_path / "interpreter"
    program.write_text(f"#!{sys.executable}\nimport sys, os, time, json\n{body}\n")
    program.chmod(0o755)
    return Aiconfigurator(program, start_s=start_s, question_s=0.0)


def test_it_is_told_every_question_by_the_program_of_this_package(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    body = f"""
data = json.load(sys.stdin)
open({str(told)!r}, "w").write(json.dumps([data, sys.argv[1:]] ))
print('{{"release": "0.12.0", "answers": [{ANSWER}]}}')"""
    answers = stand_in(tmp_path, body).ask([QUESTION])
    data, words = msgspec.json.decode(told.read_bytes())

    assert answers.release == "0.12.0"
    assert answers.answers[0].tpot_ms == 28.8
    assert msgspec.convert(data, tuple[Question, ...]) == (QUESTION,)
    assert words[0] == "-I"
    assert Path(words[1]).name == "child.py"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Traceback: something",
        "[]",
        '{"release": "0.12.0"}',
        '{"release": "0.12.0", "answers": [{"id": "c224"}]}',
        '{"release": "0.12.0", "answers": [' + ANSWER.replace("28.8", "NaN") + "]}",
        '{"release": "0.12.0", "answers": [' + ANSWER.replace("28.8", "-1") + "]}",
        '{"release": "0.12.0", "answers": [' + ANSWER.replace("28.8", '"28.8"') + "]}",
    ],
)
def test_what_is_no_answer_is_an_error(tmp_path: Path, said: str) -> None:
    with pytest.raises(PredictionError, match="answered what is no answer"):
        stand_in(tmp_path, f"sys.stdin.read(); sys.stdout.write({said!r})").ask([QUESTION])


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match="answered what is no answer"):
        stand_in(tmp_path, r"sys.stdout.buffer.write(b'\xff\xfe{')").ask([QUESTION])


def test_answers_to_other_questions_are_an_error(tmp_path: Path) -> None:
    said = '{"release": "0.12.0", "answers": []}'
    with pytest.raises(PredictionError, match="other questions"):
        stand_in(tmp_path, f"print({said!r})").ask([QUESTION])


def test_its_last_words_are_shown_where_it_fails(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match="ended with 3: no such table"):
        stand_in(tmp_path, "print('no such table', file=sys.stderr); sys.exit(3)").ask([QUESTION])


def test_one_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = f"""
child = os.fork()
if child:
    open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{child}}")
time.sleep(600)"""
    started = time.monotonic()
    with pytest.raises(PredictionError, match="did not answer within 5 s"):
        stand_in(tmp_path, body, start_s=5.0).ask([QUESTION])

    assert time.monotonic() - started < 60
    deadline = time.monotonic() + 30
    while any(_runs(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_interpreter_that_is_not_there_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMOC_AICONFIGURATOR", str(tmp_path / "none"))
    with pytest.raises(PredictionError, match="`make aiconfigurator` installs it"):
        installed()


def test_an_interpreter_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "python"
    file.write_text("")
    with pytest.raises(PredictionError, match="cannot be run: Permission denied"):
        Aiconfigurator(file).ask([QUESTION])


def test_an_environment_without_it_is_told_with_the_remedy() -> None:
    with pytest.raises(PredictionError, match="has no aiconfigurator in it; `make aiconfigurator` makes"):
        Aiconfigurator(Path(sys.executable)).ask([QUESTION])


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="aiconfigurator is built for x86-64 alone")
def test_the_real_one_answers_and_refuses() -> None:
    path = Path(environment.read("DYNAMOC_AICONFIGURATOR")).expanduser()
    if not path.is_file():
        pytest.skip(f"no aiconfigurator at {path}: `make aiconfigurator` installs it")
    alone = msgspec.structs.replace(QUESTION, id="alone", prefill=None)
    strange = msgspec.structs.replace(alone, id="strange", model="nobody/knows-this")
    old = msgspec.structs.replace(alone, id="old", version="0.1.0")
    answers = Aiconfigurator(path).ask([QUESTION, alone, strange, old])
    apart, one, unknown, other = answers.answers

    assert answers.release == "0.12.0"
    assert apart.ttft_ms == pytest.approx(509.2, abs=0.1)
    assert apart.tpot_ms == pytest.approx(28.79, abs=0.01)
    assert apart.rates == {"prefill": pytest.approx(12.73, abs=0.01), "decode": pytest.approx(14.35, abs=0.01)}
    assert one.request_ms == pytest.approx(16288, abs=1)
    assert not one.rates
    assert unknown.refused is not None
    assert "nobody/knows-this" in unknown.refused
    assert "the network is not used here" in unknown.refused
    assert other.version == "0.24.0"
