"""Rules that look right and are wrong: each of these runs, and must be proved; and what stands next to it must not."""

from __future__ import annotations

from typing import Any

import pytest
from proving import cards

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.pipeline import Proof, prove
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source

R1 = "deepseek-ai/DeepSeek-R1"
CARD = {"GB200": (4, "186 GiB"), "B200": (8, "180 GiB"), "H200": (8, "141 GiB"), "H100": (8, "80 GiB")}


def proof(workers: dict[str, Any], kind: str, nodes: int, engine: str, model: str = R1, **more: Any) -> Proof:
    gpus, memory = CARD[kind]
    machine = {"name": "n", "count": nodes, "cpus": 128, "memory": "2 TiB"}
    machine["gpus"] = {"count": gpus, "kind": kind, "memory": memory}
    data = {
        "dynamoc": 1,
        "name": "trap",
        "model": {"ref": model},
        "defaults": {"engine": engine},
        "components": {"frontend": {"role": "frontend", "port": 8000}, "router": {"role": "router"}} | workers,
        "edges": [" -> ".join(["frontend", "router", *workers])],
    }
    cluster = read_cluster(read_source(to_yaml({"name": "site", "nodes": [machine]}), "cluster.yaml"))
    return prove(read_source(to_yaml(data | more), "spec.yaml"), cluster, cards())


def alone(args: dict[str, Any], kind: str, nodes: int, engine: str = "sglang", **more: Any) -> Proof:
    fields = {name: more.pop(name) for name in ("gpus", "replicas", "nodes", "env") if name in more}
    return proof({"w": {"role": "aggregated", "args": args} | fields}, kind, nodes, engine, **more)


def errors(found: Proof) -> list[str]:
    return [d.code for d in found.diagnostics if d.severity == "error"]


def warnings(found: Proof) -> list[str]:
    return [d.code for d in found.diagnostics if d.severity == "warning"]


def dp_attention(tp: int, dp: int, **more: Any) -> dict[str, Any]:
    return {"tp-size": tp, "dp-size": dp, "ep-size": tp, "enable-dp-attention": True} | more


def test_heads_divide_over_the_ranks_of_attention_not_over_tp() -> None:
    """128 heads, tp 48, dp 48: each rank has all heads of its own requests."""
    redundant = {"ep-num-redundant-experts": 32}

    assert errors(alone(dp_attention(48, 48, **redundant), "GB200", 12)) == []
    assert errors(alone(dp_attention(48, 2, **redundant), "GB200", 12)) == ["D503"]
    assert errors(alone({"tp-size": 48}, "GB200", 12)) == ["D503"]


@pytest.mark.parametrize(
    ("engine", "args", "world"),
    [
        ("sglang", {"tp-size": 8, "dp-size": 8, "enable-dp-attention": True}, 8),
        ("sglang", {"tp-size": 4, "dp-size": 2}, 8),
        ("sglang", {"tp-size": 4, "pp-size": 2, "dp-size": 1, "enable-dp-attention": True}, 8),
        ("sglang", {"tp-size": 8, "attn-cp-size": 2}, 8),
        ("sglang", {"tp-size": 8, "attn-dp-size": 4}, 8),
        ("vllm", {"tensor-parallel-size": 2, "data-parallel-size": 4, "enable-expert-parallel": True}, 8),
        ("vllm", {"tensor-parallel-size": 8, "decode-context-parallel-size": 4}, 8),
        ("vllm", {"tensor-parallel-size": 4, "prefill-context-parallel-size": 2}, 8),
        ("trtllm", {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "moe_expert_parallel_size": 4}, 8),
        ("trtllm", {"tensor_parallel_size": 4, "context_parallel_size": 2}, 8),
        ("trtllm", {"tensor_parallel_size": 8, "moe_expert_parallel_size": 8, "enable_attention_dp": True}, 8),
    ],
)
def test_each_engine_counts_its_ranks_in_its_own_way(engine: str, args: dict[str, Any], world: int) -> None:
    found = dialect(engine)

    assert found.parallel(found.read(args).facts, {}).gpus == world
    assert errors(alone(args, "B200", 1, engine, gpus=world)) == []
    assert "D308" in errors(alone(args, "B200", 1, engine, gpus=world - 1))


def test_what_is_inside_tp_divides_it_and_what_cuts_experts_multiplies_to_it() -> None:
    sizes = {"tensor-parallel-size": 8, "decode-context-parallel-size": 3}
    experts = {"tensor_parallel_size": 8, "moe_expert_parallel_size": 4, "enable_attention_dp": True}

    assert errors(alone(sizes, "H200", 1, "vllm")) == ["D516"]
    assert errors(alone(sizes | {"decode-context-parallel-size": 2}, "H200", 1, "vllm")) == []
    assert errors(alone(experts | {"moe_tensor_parallel_size": 4}, "H200", 1, "trtllm")) == ["D515"]
    assert errors(alone(experts | {"moe_tensor_parallel_size": 2}, "H200", 1, "trtllm")) == []


def test_redundant_experts_count() -> None:
    """256 experts do not divide over 48 ranks; with 32 copies they are 288 and do. So do the slots of TensorRT-LLM."""
    slots = {"moe_config": {"load_balancer": {"num_slots": 288}}}
    sizes = {"tensor_parallel_size": 16, "moe_expert_parallel_size": 16, "enable_attention_dp": True}

    assert errors(alone(dp_attention(48, 48), "GB200", 12)) == ["D514"]
    assert errors(alone(dp_attention(48, 48, **{"ep-num-redundant-experts": 32}), "GB200", 12)) == []
    assert errors(alone(sizes | slots, "GB200", 4, "trtllm")) == []
    assert errors(alone(sizes | {"moe_config": {"load_balancer": {"num_slots": 250}}}, "GB200", 4, "trtllm")) == [
        "D514"
    ]


def test_a_decode_step_holds_a_token_of_each_sequence_and_those_that_are_guessed() -> None:
    """128 = 64 x (1 + 1)."""
    sizes = {"tensor_parallel_size": 16, "max_batch_size": 64, "max_num_tokens": 128}
    mtp = {"speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 1}}

    assert warnings(alone(sizes | mtp, "GB200", 4, "trtllm")) == []
    assert warnings(alone(sizes | mtp | {"max_num_tokens": 127}, "GB200", 4, "trtllm")) == ["D324"]


def test_deepep_sends_as_many_tokens_as_the_largest_graph_has() -> None:
    args = dp_attention(
        16, 16, **{"moe-a2a-backend": "deepep", "deepep-mode": "low_latency", "cuda-graph-bs": [1, 1024]}
    )
    env = {"SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK": "1024"}

    assert warnings(alone(args, "H200", 2, env=env)) == []
    assert warnings(alone(args, "H200", 2)) == ["D325"]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK": "0"}, "DeepEP sends none of a rank"),
        ({"SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK": "1023"}, "DeepEP sends 1023 of a rank"),
        ({"SGLANG_OPT_USE_DEEPGEMM_MEGA_MOE": "1"}, None),
        (
            {
                "SGLANG_OPT_USE_DEEPGEMM_MEGA_MOE": "1",
                "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK": "0",
                "SGLANG_OPT_DEEPGEMM_MEGA_MOE_NUM_MAX_TOKENS_PER_RANK": "1024",
            },
            None,
        ),
        (
            {
                "SGLANG_OPT_USE_DEEPGEMM_MEGA_MOE": "1",
                "SGLANG_OPT_DEEPGEMM_MEGA_MOE_NUM_MAX_TOKENS_PER_RANK": "1000",
            },
            "MegaMoE sends 1000 of a rank",
        ),
    ],
)
def test_whatever_exchanges_tokens_of_experts_has_room_for_a_graph(env: dict[str, str], expected: str | None) -> None:
    """Recipes that let MegaMoE exchange them leave DeepEP no room at all."""
    args = dp_attention(16, 16, **{"moe-a2a-backend": "deepep", "cuda-graph-max-bs": 1024})
    found = alone(args, "H200", 2, env=env).diagnostics

    assert [d.message.partition("tokens, ")[2] for d in found] == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("prefill", "decode", "expected"),
    [(8232, 9256, []), (8192, 9216, []), (8191, 9216, ["D320"]), (8192, 9215, ["D320"])],
)
def test_prefill_needs_the_prompt_and_decode_the_answer_too(prefill: int, decode: int, expected: list[str]) -> None:
    def worker(role: str, length: int) -> dict[str, Any]:
        return {"role": role, "args": {"tensor_parallel_size": 8, "max_seq_len": length}}

    workers = {"prefill": worker("prefill", prefill), "decode": worker("decode", decode)}

    assert errors(proof(workers, "H200", 2, "trtllm", load={"isl": 8192, "osl": 1024})) == expected


def test_data_parallel_ranks_behind_a_balancer_are_those_of_the_role() -> None:
    """Each of two servers has eight GPUs and is told that there are sixteen ranks."""
    args = {"data-parallel-size": 16, "data-parallel-size-local": 8, "data-parallel-hybrid-lb": True}

    assert errors(alone(args, "H200", 2, "vllm", gpus=8, replicas=2)) == []
    assert errors(alone(args, "H200", 2, "vllm", gpus=16)) == []
    assert errors(alone(args, "H200", 2, "vllm", gpus=8)) == ["D308"]
    assert errors(alone({"data-parallel-size": 16}, "H200", 2, "vllm", gpus=8, replicas=2)) == ["D308"]


def test_workers_of_six_gpus_are_packed_on_nodes_of_four() -> None:
    """Two of them need three nodes, of which they share one."""
    args = {"tensor_parallel_size": 6, "moe_expert_parallel_size": 6, "enable_attention_dp": True}
    found = alone(args, "GB200", 3, "trtllm", replicas=2, model="nvidia/DeepSeek-R1-FP4")
    assert found.plan is not None

    assert sorted(len(p.gpus) for p in found.plan.processes if p.gpus) == [2, 2, 4, 4]


def test_variables_for_nvlink_between_nodes_warn_where_there_is_none() -> None:
    env = {"NCCL_MNNVL_ENABLE": "1", "MC_FORCE_MNNVL": "1"}

    assert (errors(alone({"tp-size": 8}, "B200", 1, env=env)), warnings(alone({"tp-size": 8}, "B200", 1, env=env))) == (
        [],
        ["D316"],
    )
    assert warnings(alone({"tp-size": 8}, "GB200", 2, env=env)) == []
    assert warnings(alone({"tp-size": 8}, "B200", 1, env={"NCCL_MNNVL_ENABLE": "0"})) == []


def test_deepseek_r1_fits_eight_h200_and_not_eight_h100() -> None:
    assert errors(alone({"tp-size": 8}, "H200", 1)) == []
    assert errors(alone({"tp-size": 8}, "H100", 1)) == ["D330"]


def test_without_a_card_nothing_is_claimed_and_that_is_said() -> None:
    found = alone({"tp-size": 7, "novel-flag": 1}, "H100", 1, model="nobody/secret")

    assert errors(found) == []
    assert any("novel-flag" in line for line in found.unchecked)
    assert any("card" in line or "model" in line for line in found.unchecked)


def test_what_is_false_and_cannot_be_said_is_listed() -> None:
    """A switch that is off says nothing; what is not known, or takes a value, may not be off without its flag."""
    args = {"tp-size": 8, "skip-tokenizer-init": False, "novel-flag": False, "random-seed": False}
    found = [line for line in alone(args, "H200", 1).unchecked if "not told" in line]

    assert found == [
        "`w.args.novel-flag`: sglang is not told what is `false`",
        "`w.args.random-seed`: sglang is not told what is `false`",
    ]


def test_both_sides_may_differ_in_what_only_one_of_them_needs() -> None:
    """Context, pool and speculation of the published recipe are set on decode only."""
    decode = {"context-length": 72000, "max-total-tokens": 128000, "speculative-algorithm": "EAGLE"}
    workers = {
        "prefill": {"role": "prefill", "args": {"tp-size": 8}},
        "decode": {"role": "decode", "args": {"tp-size": 8, "speculative-num-draft-tokens": 3} | decode},
    }
    found = proof(workers, "H200", 2, "sglang", load={"isl": 8192, "osl": 1024})

    assert (errors(found), warnings(found)) == ([], [])


@pytest.mark.parametrize(
    ("prefill", "decode", "expected"),
    [
        ({"kv-cache-dtype": "fp8_e4m3"}, {"kv-cache-dtype": "bf16"}, ["D520"]),
        ({"page-size": 64}, {"page-size": 16}, ["D520"]),
        ({"disaggregation-transfer-backend": "nixl"}, {"disaggregation-transfer-backend": "mooncake"}, ["D528"]),
        ({"kv-cache-dtype": "fp8_e4m3"}, {"kv-cache-dtype": "fp8_e4m3"}, []),
        ({"kv-cache-dtype": "auto"}, {"kv-cache-dtype": "fp8_e4m3"}, []),
        ({"page-size": 64}, {}, []),
    ],
)
def test_what_both_sides_say_of_kv_must_be_the_same(
    prefill: dict[str, Any], decode: dict[str, Any], expected: list[str]
) -> None:
    workers = {
        "prefill": {"role": "prefill", "args": {"tp-size": 8} | prefill},
        "decode": {"role": "decode", "args": {"tp-size": 8} | decode},
    }

    assert errors(proof(workers, "H200", 2, "sglang")) == expected


def test_copies_of_a_model_span_no_nodes_where_the_engine_cannot() -> None:
    """SGLang spreads data-parallel attention over nodes, and nothing else of it; vLLM spreads both."""
    assert errors(alone({"tp-size": 8, "dp-size": 2}, "H200", 2)) == ["D529"]
    assert errors(alone({"tp-size": 4, "dp-size": 2}, "H200", 1, model="meta-llama/Llama-3.3-70B-Instruct")) == []
    assert errors(alone(dp_attention(16, 16), "H200", 2)) == []
    assert errors(alone({"tensor-parallel-size": 8, "data-parallel-size": 2}, "H200", 2, "vllm")) == []


def test_a_context_beyond_the_model_is_an_error_where_the_engine_refuses_it() -> None:
    """TensorRT-LLM goes on with it, and the variable of vLLM lifts the bound."""
    assert errors(alone({"tensor-parallel-size": 8, "max-model-len": 200_000}, "H200", 1, "vllm")) == ["D509"]
    assert warnings(alone({"tensor_parallel_size": 8, "max_seq_len": 200_000}, "H200", 1, "trtllm")) == ["D509"]
    lifted = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
    assert errors(alone({"tensor-parallel-size": 8, "max-model-len": 200_000}, "H200", 1, "vllm", env=lifted)) == []
