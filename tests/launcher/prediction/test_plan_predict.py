"""`dynamoc plan --predict`: from a spec to questions, and from answers to what is shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from dynamoc.compiler.pipeline import build_plan
from dynamoc.launcher.cli import root
from dynamoc.launcher.prediction.bands import BANDS, spell
from dynamoc.launcher.prediction.mapping import Mapped, to_questions
from dynamoc.launcher.reading import Findings, read_inputs

CLUSTERS = Path(__file__).parents[3] / "specs/clusters"
H200 = CLUSTERS / "h200x8x5.yaml"

ANSWERING = """
answers = [
    {"id": q["id"], "ttft_ms": 500.0, "tpot_ms": 25.0, "request_ms": 12975.0, "version": "0.24.0",
     "rates": {"prefill": 12.0, "decode": 14.0} if q["prefill"] else {}, "formats": {"kvcache": "fp8"}}
    if q["concurrency"] < 1000 else {"id": q["id"], "refused": "NoData: no row"}
    for q in json.load(sys.stdin)
]
print(json.dumps({"release": "0.12.0", "answers": answers}))"""


def spec(**changes: Any) -> dict[str, Any]:
    """Four prefill workers of a GPU and seven decode workers of four."""
    return {
        "dynamoc": 1,
        "name": "q",
        "model": {"ref": "Qwen/Qwen3-32B-FP8"},
        "defaults": {"engine": "vllm", "version": "0.24.0"},
        "components": {
            "frontend": {"role": "frontend", "port": 8000},
            "router": {"role": "router"},
            "prefill": {"role": "prefill", "replicas": 4},
            "decode": {"role": "decode", "replicas": 7, "parallel": {"tp": 4}},
        },
        "edges": ["frontend -> router -> prefill -> decode"],
        "load": {"isl": 4000, "osl": 500, "concurrency": [224]},
    } | changes


def aggregated(**worker: Any) -> dict[str, Any]:
    """Workers that prefill and decode."""
    components = spec()["components"]
    of = {"frontend": components["frontend"], "router": components["router"], "worker": {"role": "aggregated"} | worker}
    return spec(components=of, edges=["frontend -> router -> worker"])


def mapped(text: dict[str, Any], tmp_path: Path, cluster: Path = H200) -> Mapped:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(text, sort_keys=False))
    inputs = read_inputs(path, cluster, Findings())
    return to_questions(build_plan(inputs.source, inputs.cluster, inputs.models)[0])


def reasons(found: Mapped) -> str:
    assert not found.questions
    return "; ".join(one.reason for one in found.not_mapped)


def test_pools_apart_become_one_question(tmp_path: Path) -> None:
    found = mapped(spec(), tmp_path)
    (question,) = found.questions
    assert question.prefill is not None

    assert (question.engine, question.version, question.isl, question.osl) == ("vllm", "0.24.0", 4000, 500)
    assert (question.prefill.tp, question.prefill.workers, question.prefill.batch) == (1, 4, 1)
    assert (question.pool.tp, question.pool.workers, question.pool.batch) == (4, 7, 32)
    assert question.pool.system == "h200_sxm"
    assert question.pool.moe_ep is None
    assert any("moving KV" in line for line in found.left_out)


def test_the_fullest_replica_is_asked_about(tmp_path: Path) -> None:
    text = aggregated(replicas=3, parallel={"tp": 2}) | {"load": {"isl": 100, "osl": 10, "concurrency": [1, 6, 7]}}

    assert [q.pool.batch for q in mapped(text, tmp_path).questions] == [1, 2, 3]


def test_data_parallel_ranks_without_experts_are_replicas(tmp_path: Path) -> None:
    (question,) = mapped(aggregated(replicas=2, parallel={"tp": 2, "dp": 2}), tmp_path).questions

    assert (question.pool.tp, question.pool.dp, question.pool.workers, question.pool.batch) == (2, 1, 4, 56)


def test_experts_divide_over_all_ranks_of_a_worker(tmp_path: Path) -> None:
    text = aggregated(replicas=2, parallel={"tp": 2, "dp": 4, "ep": 8}) | {"model": {"ref": "Qwen/Qwen3-30B-A3B"}}
    (question,) = mapped(text, tmp_path).questions

    assert (question.pool.tp, question.pool.dp, question.pool.moe_tp, question.pool.moe_ep) == (2, 4, 1, 8)
    assert question.pool.batch == 28


def test_a_shared_prefix_is_taken_as_cached_and_said(tmp_path: Path) -> None:
    load = {"isl": 4000, "osl": 500, "concurrency": [8], "shared_prefix": 0.5}
    found = mapped(aggregated(kv_dtype="fp8") | {"load": load}, tmp_path)

    assert found.questions[0].prefix == 2000
    assert found.questions[0].kv_format == "fp8"
    assert any("shared prefix" in line for line in found.left_out)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (aggregated() | {"load": {"isl": 10, "osl": 10}}, "does not say how many requests"),
        (aggregated() | {"load": {"isl": 10, "osl": 10, "request_rate": 3}}, "no `concurrency`"),
        (aggregated() | {"load": {"isl": 10, "osl": 1, "concurrency": [4]}}, "an answer of one token"),
        (
            aggregated() | {"load": {"isl": 10, "osl": 10, "concurrency": [4], "request_rate": 3}},
            "a rate of 3/s bounds them besides",
        ),
        (aggregated() | {"defaults": {"engine": "mocker"}}, "of the engine mocker (worker)"),
        (
            aggregated(args={"speculative-config": {"method": "eagle3", "num_speculative_tokens": 3, "model": "x"}}),
            "how many are accepted is not in the spec",
        ),
    ],
)
def test_what_cannot_be_asked_is_said_with_its_reason(tmp_path: Path, text: dict[str, Any], reason: str) -> None:
    assert reason in reasons(mapped(text, tmp_path))


def test_gpus_without_measurements_are_not_taken_for_others(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(H200.read_text().replace("kind: H200", "kind: H200 NVL"))

    assert "of the GPUs of worker (H200 NVL)" in reasons(mapped(aggregated(), tmp_path, cluster))


def test_bands_are_told_where_they_are_known() -> None:
    assert "24 % in the median, 131 %" in spell("h200_sxm", "vllm", disaggregated=False)[0]
    assert len(spell("h200_sxm", "vllm", disaggregated=True)) == 3
    assert "not known" in spell("l40s", "vllm", disaggregated=False)[0]
    assert all(band.tpot_median <= band.tpot_p90 for band in BANDS.values())


@pytest.fixture
def estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that answers at once stands in for the interpreter."""
    program = tmp_path / "interpreter"
    program.write_text(f"#!{sys.executable}\nimport json, sys\n{ANSWERING}\n")
    program.chmod(0o755)
    monkeypatch.setenv("DYNAMOC_AICONFIGURATOR", str(program))


def plan(tmp_path: Path, text: dict[str, Any], *words: str) -> Result:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(text, sort_keys=False))
    return CliRunner().invoke(root, ["plan", str(path), "--cluster", str(H200), *words])


@pytest.mark.usefixtures("estimator")
def test_rates_are_those_of_the_slower_of_the_pools_and_the_load(tmp_path: Path) -> None:
    text = spec(load={"isl": 4000, "osl": 500, "concurrency": [28, 224, 1024]})
    shown = json.loads(plan(tmp_path, text, "--predict", "--format", "json").output)["prediction"]
    few, many = shown["estimates"]

    assert (few["binding"], many["binding"]) == ("load", "prefill")
    assert few["requests_per_s"] == pytest.approx(28 / 12.975)
    assert many["tokens_per_s"] == 12.0 * 500
    assert many["tokens_per_s_per_gpu"] == 12.0 * 500 / 32
    assert many["tokens_per_s_per_user"] == 40.0
    assert shown["not_estimated"] == [{"load": "c1024", "reason": "aiconfigurator: NoData: no row"}]


def test_a_folder_with_a_config_is_asked_about_before_a_name(tmp_path: Path) -> None:
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024, "vocab_size": 1000}
    config |= {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 2048}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32768, "head_dim": 128}))
    found = mapped(aggregated() | {"model": {"ref": "me/mine", "path": str(folder)}}, tmp_path)

    assert [question.model for question in found.questions] == [str(folder)]


@pytest.mark.usefixtures("estimator")
def test_an_estimate_is_called_one_and_shown_with_its_errors(tmp_path: Path) -> None:
    output = plan(tmp_path, spec(defaults={"engine": "vllm", "version": "0.20.0"}), "--predict").output

    assert "Estimate by aiconfigurator 0.12.0, not a measurement" in output
    assert "TPOT error: 24 % in the median" in output
    assert "a floor, no more" in output
    assert "vllm 0.20.0: the measurements are of 0.24.0" in output
    assert "which the spec leaves to the engine: fp8 was taken" in output


def test_without_the_estimator_the_command_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMOC_AICONFIGURATOR", str(tmp_path / "none"))
    done = plan(tmp_path, spec(), "--predict")

    assert done.exit_code == 1
    assert "`make aiconfigurator` installs it" in done.output
    assert plan(tmp_path, spec()).exit_code == 0


def test_where_nothing_can_be_asked_no_estimator_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMOC_AICONFIGURATOR", str(tmp_path / "none"))
    done = plan(tmp_path, spec(load={"isl": 10, "osl": 10}), "--predict")

    assert done.exit_code == 0
    assert "no estimate: the spec's `load:` does not say" in done.output
