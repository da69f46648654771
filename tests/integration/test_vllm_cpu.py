"""vLLM on a CPU behind our frontend and router: real text, an engine that dies, clients that leave, a drain.

`make vllm-cpu` makes its environment, which is not the project's own; `make vllm-test` runs these, which take minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pipelines import SMOLLM2, Pipeline, Stream, serving, stream, streams

from dynamoc.runtime.served.samples import sums_of

PYTHON = Path.home() / ".cache/dynamoc/engines/vllm-cpu/bin/python"
READY_S = 420.0
BLOCK = 32

pytestmark = [
    pytest.mark.integration,
    pytest.mark.model,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not os.environ.get("DYNAMOC_ENGINE_TESTS"), reason="takes minutes: run `make vllm-test`"),
    pytest.mark.skipif(not PYTHON.exists(), reason=f"no vLLM for CPUs at {PYTHON}: run `make vllm-cpu`"),
    pytest.mark.skipif(not SMOLLM2.is_dir(), reason="no SmolLM2 folder: run `make model`"),
]

WORKERS: dict[str, Any] = {
    "engine": "vllm",
    "device": "cpu",
    "cpus": 1,
    "block_size": BLOCK,
    "context_length": 2048,
    "max_sequences": 16,
    "dtype": "bfloat16",
    "args": {"enforce-eager": True},
    "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
}
CLUSTER = f"""
name: here
nodes: [{{name: n, cpus: 8, memory: 20 GiB}}]
site: {{engine_pythons: {{vllm: {PYTHON}}}}}
"""
STORY = "Tell me a long story about a dog and a cat."


def spec(components: dict[str, Any], chain: list[str]) -> str:
    base = {"frontend": {"role": "frontend", "port": 8000}, "router": {"role": "router"}}
    model = {"ref": "HuggingFaceTB/SmolLM2-135M-Instruct", "path": str(SMOLLM2), "served_name": "smol"}
    data = {"dynamoc": 1, "name": "vllm", "model": model, "components": base | components, "edges": chain}
    return yaml.safe_dump(data, sort_keys=False)


def question(text: str, max_tokens: int = 12, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    usage = {"stream_options": {"include_usage": True}}
    return {"model": "smol", "messages": messages, "temperature": 0, "max_tokens": max_tokens, **usage, **more}


def ask(pipeline: Pipeline, *bodies: dict[str, Any]) -> list[Stream]:
    return asyncio.run(streams(pipeline.url, list(bodies)))


def engine_metric(pipeline: Pipeline, worker: str, name: str) -> float:
    endpoint = json.loads((pipeline.run_dir / "endpoints.json").read_text())[worker]
    page = httpx.get(f"http://{endpoint['host']}:{endpoint['ports']['http']}/metrics", timeout=10).text
    return sums_of(page, {name}).get(name, 0.0)


def engine_pid(pipeline: Pipeline, worker: str) -> int:
    """The server of a worker's engine: the child of the process that the agent started."""
    parent = pipeline.processes()[worker]["pid"]
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])


def until(condition: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """One vLLM worker, and one of our own engine that can take over."""
    spare = {"role": "aggregated", "engine": "native", "context_length": 2048, "kv_blocks": 512, "cpus": 1}
    text = spec(
        {"worker": {"role": "aggregated", **WORKERS}, "spare": spare},
        ["frontend -> router -> worker", "router -> spare"],
    )
    with serving(text, tmp_path_factory.mktemp("vllm"), cluster=CLUSTER, ready_s=READY_S) as running:
        yield running


def test_text_is_real_and_counted(pipeline: Pipeline) -> None:
    answers = ask(pipeline, *[question(f"{'Please. ' * n}What is the capital of France?") for n in range(1, 7)])

    assert all(answer.error is None for answer in answers)
    assert sum("Paris" in answer.text for answer in answers) >= 4
    assert all(answer.usage["completion_tokens"] >= answer.tokens for answer in answers)
    assert engine_metric(pipeline, "worker-0", "vllm:generation_tokens_total") > 0
    until(lambda: pipeline.metric("worker-0", "dynamoc_worker_generated_tokens_total") > 0, "counters are not bridged")


def test_the_router_knows_what_the_engine_holds_and_sends_the_prompt_there(pipeline: Pipeline) -> None:
    text = "the quick brown fox jumps over the lazy dog and runs away. " * 12
    bodies = [question(f"{text} What is the capital of France?", max_tokens=4)]

    def is_indexed() -> bool:
        ask(pipeline, *bodies * 2)  # two at once: each worker gets one
        return pipeline.metric("router-0", "dynamoc_router_index_blocks", worker="worker-0") >= 6

    until(is_indexed, "the engine's blocks are not in the router's index", 120)
    [again] = ask(pipeline, *bodies)

    assert again.usage["prompt_tokens_details"]["cached_tokens"] >= 6 * BLOCK - BLOCK


def test_a_client_that_leaves_frees_its_request(pipeline: Pipeline) -> None:
    async def leave() -> None:
        async with httpx.AsyncClient(timeout=120) as client:
            bodies = [question(STORY * n, max_tokens=1000, ignore_eos=True) for n in (1, 2, 3, 4)]
            results = [Stream() for _ in bodies]
            tasks = [
                asyncio.create_task(stream(client, pipeline.url, b, r)) for b, r in zip(bodies, results, strict=True)
            ]
            while not all(result.tokens > 2 for result in results):
                await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(leave())
    until(
        lambda: engine_metric(pipeline, "worker-0", "vllm:num_requests_running") == 0, "the engine goes on for nobody"
    )


def test_an_engine_that_is_killed_costs_no_answer_and_comes_back(pipeline: Pipeline) -> None:
    async def kill_meanwhile() -> list[Stream]:
        bodies = [question(f"{STORY} {n}", max_tokens=40, ignore_eos=True) for n in range(6)]
        results = [Stream() for _ in bodies]
        asking = asyncio.create_task(streams(pipeline.url, bodies, results))
        while not all(result.tokens > 4 for result in results):
            await asyncio.sleep(0.1)
        os.kill(engine_pid(pipeline, "worker-0"), signal.SIGKILL)
        return await asking

    incarnation = pipeline.processes()["worker-0"]["incarnation"]
    answers = asyncio.run(kill_meanwhile())

    assert [answer.error for answer in answers] == [None] * 6
    assert {(answer.finish, answer.usage["completion_tokens"]) for answer in answers} == {("length", 40)}
    assert pipeline.metric("frontend-0", "dynamoc_frontend_replays_total") > 0
    pipeline.wait_back("worker-0", incarnation, READY_S)


def test_a_drain_lets_answers_end_and_leaves_no_engine(pipeline: Pipeline) -> None:
    async def drain() -> Stream:
        async with httpx.AsyncClient(timeout=120) as client:
            result = Stream()
            body = question(STORY, max_tokens=12, ignore_eos=True)
            asking = asyncio.create_task(stream(client, pipeline.url, body, result))
            while result.tokens < 2:
                await asyncio.sleep(0.05)
            pipeline.process.send_signal(signal.SIGINT)
            return await asking

    engine = engine_pid(pipeline, "worker-0")
    answer = asyncio.run(drain())

    assert (answer.error, answer.finish) == (None, "length")
    assert pipeline.process.wait(60) == 0
    assert not Path(f"/proc/{engine}").exists()


def test_prompts_are_handed_over_by_nixl(tmp_path: Path) -> None:
    if not any(PYTHON.parent.parent.glob("lib/python3*/site-packages/nixl")):
        pytest.skip("vLLM's environment has no nixl: run `make vllm-cpu`")
    workers = {role: {"role": role, **WORKERS} for role in ("prefill", "decode")}
    text = spec(workers, ["frontend -> router -> prefill -> decode"])
    words = "the quick brown fox jumps over the lazy dog and runs away. " * 12
    with serving(text, tmp_path, cluster=CLUSTER, ready_s=READY_S) as pair:
        [answer] = ask(pair, question(f"{words} What is the capital of France?"))
        assert (answer.error, answer.finish) == (None, "stop")
        moved = engine_metric(pair, "decode-0", "vllm:nixl_bytes_transferred_sum")
        failed = engine_metric(pair, "decode-0", "vllm:nixl_num_failed_transfers_total")

        assert "Paris" in answer.text
        assert moved > 0
        assert failed == 0
        assert pair.metric("router-0", "dynamoc_router_requests_total", outcome="disaggregated") == 1
