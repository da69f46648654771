"""`dynamoc capacity` on a simulated campaign: its plan, simulated in turn, carries the demand; the rest is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from dynamoc.launcher.campaign.opening import open_campaign
from dynamoc.launcher.campaign.running import run_campaign
from dynamoc.launcher.campaign.store import Store, create_store
from dynamoc.launcher.cli import root
from dynamoc.launcher.reading import Findings

CLUSTER = "name: one\nnodes: [{name: node, count: 4, cpus: 64, memory: 256 GiB, gpus: {count: 8, kind: H200}}]\n"
CAMPAIGN = """dynamoc: 1
campaign: pools
base:
  dynamoc: 1
  name: mockers
  model: {{ref: HuggingFaceTB/SmolLM2-135M-Instruct}}
  defaults: {{engine: mocker, device: {device}, context_length: 2048, kv_blocks: 2048}}
  components:
    frontend: {{role: frontend, port: 8000}}
    router: {{role: router}}
    prefill: {{role: prefill{prefill}}}
    decode: {{role: decode, replicas: 1}}
  edges: [frontend -> router -> prefill -> decode]
cluster: cluster.yaml
target: simulated
sla: [ttft_ms@p95 <= 200, tpot_ms@p95 <= 12]
axes:
  pools: {{list: [{axes}]}}
loads: [{loads}]
"""
MEASURED = {
    "prefill": ", parallel: {tp: 3}",
    "axes": ", ".join(
        f"{{components.prefill.replicas: {x}, components.decode.replicas: {y}}}" for x, y in ((1, 1), (1, 3))
    ),
    "loads": ", ".join(f"{{isl: {isl}, osl: 32, concurrency: [2, 8, 32], requests: 96}}" for isl in (256, 512)),
}
DEMAND = ["--rate", "90", "--isl", "384", "--osl", "32"]


def run(folder: Path, device: str = "cuda", **changes: str) -> Store:
    folder.mkdir(exist_ok=True)
    (folder / "cluster.yaml").write_text(CLUSTER)
    (folder / "campaign.yaml").write_text(CAMPAIGN.format(device=device, **(MEASURED | changes)))
    opened = open_campaign(folder / "campaign.yaml", Findings())
    store = create_store(folder, opened.campaign, opened.cluster, opened.texts)
    run_campaign(store, Console(quiet=True), lambda _: None)
    return store


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return run(tmp_path_factory.mktemp("pools"))


def capacity(store: Store, *words: str) -> Result:
    return CliRunner().invoke(root, ["capacity", str(store.folder), *words])


def answer(store: Store, *words: str) -> dict[str, Any]:
    done = capacity(store, *words, "--format", "json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_the_plan_of_pools_carries_the_demand_when_it_is_simulated_in_turn(campaign: Store, tmp_path: Path) -> None:
    found = answer(campaign, *DEMAND)["pools"]
    prefill, decode = found["pools"]
    x, y = prefill["workers"], decode["workers"]
    axes = f"{{components.prefill.replicas: {x}, components.decode.replicas: {y}}}"
    load = "{isl: 384, osl: 32, request_rate: 90, requests: 400}"
    (row,) = run(tmp_path / "planned", axes=axes, loads=load).results.read()

    assert row.requests_per_s > 0.9 * 90
    assert row.tpot_ms is not None and row.tpot_ms.p95 is not None and row.tpot_ms.p95 <= 12
    assert row.ttft_ms is not None and row.ttft_ms.p95 is not None and row.ttft_ms.p95 <= 200
    assert found["name"] == f"{x}P{y}D"
    assert found["gpus"] == 3 * x + y


def test_numbers_are_whole_and_follow_from_what_a_worker_carried(campaign: Store) -> None:
    found = answer(campaign, *DEMAND, "--headroom", "0.8", "--price", "3")["pools"]
    for pool in found["pools"]:
        needed = 90 / pool["requests_per_s_each"] / 0.8
        assert pool["workers"] == math.ceil(needed)
        assert pool["utilisation"] == pytest.approx(90 / pool["requests_per_s_each"] / pool["workers"])
    prefill, decode = found["pools"]
    binds = prefill if prefill["utilisation"] > decode["utilisation"] else decode

    assert found["binding"] == binds["role"]
    assert found["price_per_hour"] == 3 * found["gpus"]
    assert found["gpu_hours_per_1k"] == pytest.approx(found["gpus"] * 1000 / 90 / 3600)


def test_a_budget_says_what_it_leaves(campaign: Store) -> None:
    free = answer(campaign, *DEMAND)["pools"]
    tight = answer(campaign, *DEMAND, "--gpus", str(free["gpus"] // 2))["pools"]

    assert tight["gpus"] <= free["gpus"] // 2
    assert tight["needed"] == free["name"]
    assert tight["served_per_s"] < 90
    assert "the budget leaves" in capacity(campaign, *DEMAND, "--gpus", str(free["gpus"] // 2)).output


def test_copies_are_of_deployments_that_kept_every_limit_at_just_these_lengths(campaign: Store) -> None:
    found = answer(campaign, "--rate", "90", "--isl", "256", "--osl", "32")
    rows = {row.labels["load"]: row for row in campaign.results.read() if row.isl_asked == 256}

    assert found["copies"]
    assert [one["gpus"] for one in found["copies"]] == sorted(one["gpus"] for one in found["copies"])
    for one in found["copies"]:
        rate = min(
            row.requests_per_s
            for row in campaign.results.read()
            if row.labels["deployment"] == one["deployment"]
            and row.isl_asked == 256
            and f"{row.concurrency} in flight" == one["load"]
        )
        assert one["copies"] == math.ceil(90 / rate / 0.9)
    assert rows


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--isl", "600", "--osl", "32"], "prefill was measured at 256 to 512 tokens, and 600 are asked for"),
        (["--isl", "128", "--osl", "32"], "prefill was measured at 256 to 512 tokens, and 128 are asked for"),
        (["--isl", "384", "--osl", "900"], "decode was measured at 272 to 528 tokens, and 834 are asked for"),
        (["--isl", "384", "--osl", "32", "--sla", "ttft_ms@p95 <= 1"], "the shortest TTFT at 384 tokens is"),
        (["--isl", "384", "--osl", "32", "--gpus", "3"], "the smallest deployment takes 4 GPUs, and the budget is 3"),
    ],
)
def test_what_was_not_measured_is_refused_with_what_was(words: list[str], said: str, campaign: Store) -> None:
    done = capacity(campaign, "--rate", "5", *words)

    assert done.exit_code == 1
    assert said in done.output
    assert "copies: no plan, because" in done.output


def test_what_is_beyond_the_measurement_is_said(campaign: Store) -> None:
    notes = " ".join(answer(campaign, *DEMAND, "--rate", "900")["notes"])

    assert "at most 1 prefill and 3 decode workers were measured together" in notes
    assert "simulated time" in notes


def test_on_cpus_workers_are_counted(tmp_path: Path) -> None:
    store = run(tmp_path / "cpu", device="cpu", prefill="")
    done = capacity(store, "--rate", "20", "--isl", "256", "--osl", "32", "--price", "3")

    assert done.exit_code == 0
    assert "each worker counts as one, and nothing has a price" in done.output
    assert "$" not in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "0", "--isl", "1", "--osl", "1"], "0"),
        (["--rate", "1", "--osl", "1"], "--isl"),
        (["--rate", "1", "--isl", "1", "--osl", "1", "--sla", "ttft <= 3"], "metrics are"),
        (["--rate", "1", "--isl", "1", "--osl", "1", "--sla", "ttft_ms@p95 >= 3"], "a time has a largest value"),
        (["--rate", "1", "--isl", "1", "--osl", "1", "--headroom", "1.5"], "1.5"),
    ],
)
def test_a_demand_that_cannot_be_asked_is_a_usage_error(words: list[str], said: str, campaign: Store) -> None:
    done = capacity(campaign, *words)

    assert done.exit_code == 2
    assert said in done.output


def test_a_folder_that_is_no_campaign_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(root, ["capacity", str(tmp_path), "--rate", "1", "--isl", "1", "--osl", "1"])

    assert done.exit_code == 1
    assert "is neither a campaign's folder" in done.output
