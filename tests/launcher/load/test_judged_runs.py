"""Runs that went wrong, each for real, and what their results are worth."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from proving import cards
from small_server import Exchange, SmallServer, small_server, well
from test_load_run import ServedBySmall, load, point
from tokenizers import Tokenizer, models, pre_tokenizers

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.pipeline import compile_spec
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.launcher.load.point import LoadPoint
from dynamoc.launcher.load.run import run_load
from dynamoc.launcher.results.acceptance import synthetic_acceptance
from dynamoc.launcher.results.row import Row, read_row
from dynamoc.launcher.results.verdict import Standing, Verdict, judge
from dynamoc.runtime.manifest import decode_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = [a + b for a in "bcdfgh" for b in "aeiou"]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="ba"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def judged(folder: Path, server: SmallServer, at: LoadPoint, gpus: int = 2) -> tuple[Row, Verdict]:
    plan = load(at)
    run_load(ServedBySmall(folder, server), msgspec.structs.replace(plan, gpus_allocated=gpus), lambda _: None)
    result = folder / "results" / f"{at.id}.json"
    row = read_row(result if result.is_file() else folder / "evidence" / f"load-{at.id}.json")
    return row, judge(row)


def rules(verdict: Verdict) -> dict[str, str]:
    return {reason.rule: str(reason.standing) for reason in verdict.reasons}


def steady(requests: int = 24) -> LoadPoint:
    return msgspec.structs.replace(point("c2", requests), warmup_requests=2)


async def paced(exchange: Exchange) -> None:
    await well(exchange, 0.01)


def test_a_good_run_is_valid(folder: Path) -> None:
    with small_server(paced) as server:
        _, verdict = judged(folder, server, steady())
    assert rules(verdict) == {} and verdict.standing is Standing.VALID


def test_a_run_without_a_token_is_invalid_though_every_answer_was_200(folder: Path) -> None:
    async def silent(exchange: Exchange) -> None:
        exchange.head()
        exchange.end(0)

    with small_server(silent) as server:
        row, verdict = judged(folder, server, steady())

    assert row.completed == 0
    assert rules(verdict)["tokens"] == "invalid"
    assert not (folder / "results/c2.json").exists(), "no result that a table would show"


def test_a_run_all_of_whose_requests_failed_is_invalid(folder: Path) -> None:
    async def refuse(exchange: Exchange) -> None:
        exchange.head("503 Service Unavailable", "content-length: 0")

    with small_server(refuse) as server:
        row, verdict = judged(folder, server, steady())

    assert (row.completed, row.failed) == (0, 24)
    assert rules(verdict)["errors"] == "invalid"


def test_a_run_with_idle_gpus_is_suspect_and_divides_by_all(folder: Path) -> None:
    with small_server(paced) as server:
        _, verdict = judged(folder, server, steady(), gpus=8)
    [reason] = verdict.reasons

    assert verdict.standing is Standing.SUSPECT
    assert reason.text == "6 of 8 allocated GPUs are idle; figures per GPU divide by 8"


FLOOD = """
import asyncio
EVENTS = b'data: {"choices":[{"index":0,"text":" a"}]}\\n\\n' * 20000
END = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}\\n\\ndata: [DONE]\\n\\n'
BODY = EVENTS + END
HEAD = b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(BODY)

async def serve(reader, writer):
    while head := await reader.readuntil(b"\\r\\n\\r\\n"):
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
            continue
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\\r\\n")[0]))
        writer.write(HEAD + BODY)
        await writer.drain()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def test_a_run_whose_client_was_the_limit_is_suspect(folder: Path) -> None:
    """A server to which answers cost nothing, and a client that has to read every one of their events."""
    process = subprocess.Popen(
        [sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        server = SmallServer(port=int(process.stdout.readline()))
        for attempt in range(8):  # on a busy machine the server may be the slow one
            own = folder / str(attempt)
            own.mkdir()
            shutil.copy(folder / "tokenizer.json", own)
            row, verdict = judged(own, server, steady())
            if rules(verdict) == {"client-limited": "suspect"}:
                break
    finally:
        process.kill()
        process.communicate()

    assert row.completed == 24
    assert rules(verdict) == {"client-limited": "suspect"}
    assert re.search(r"its event loop was busy for \d+% of the time > 90%", row.client_limit or "")


def test_a_server_that_slows_down_is_not_steady(folder: Path) -> None:
    async def slower(exchange: Exchange) -> None:
        await asyncio.sleep(0.008 * exchange.number)
        await well(exchange, 0.002)

    with small_server(slower) as server:
        row, verdict = judged(folder, server, steady(40))

    assert row.e2e_drift is not None and row.e2e_drift > 0.3
    assert rules(verdict)["steady-state"] == "suspect"


RECIPE = """\
dynamoc: 1
name: made-up
model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
defaults: {engine: sglang}
components:
  frontend: {role: frontend, port: 8000}
  router: {role: router}
  worker:
    role: aggregated
    env: {SGLANG_SIMULATE_ACC_LEN: "2.49", SGLANG_SIMULATE_ACC_METHOD: match-expected}
edges: [frontend -> router -> worker]
"""
CLUSTER = "name: one\nnodes: [{name: node, cpus: 32, memory: 256 GiB, gpus: {count: 1, kind: H200}}]\n"


def test_a_recipe_that_makes_up_acceptance_is_known_by_its_plan() -> None:
    source, cluster = read_source(RECIPE, "spec.yaml"), read_cluster(read_source(CLUSTER, "cluster.yaml"))
    artifacts = compile_spec(source, cluster, load_target("local"), cards())
    plan = next(a.text for a in artifacts if str(a.path) == "plan.json")
    manifest = decode_manifest(json.dumps(json.loads(plan)).encode())

    assert synthetic_acceptance(manifest) == ("SGLANG_SIMULATE_ACC_LEN=2.49",)
