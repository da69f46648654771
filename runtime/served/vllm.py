"""vLLM's server: token ids in and out of OpenAI's completions; its NIXL connector hands KV over."""

from __future__ import annotations

from collections.abc import Mapping

from dynamoc.runtime.engines.protocol import EngineRequest
from dynamoc.runtime.process import Endpoint
from dynamoc.runtime.served.api import FACTS_LIMIT_S, Body, Counted, Facts, forgets_penalties, model_of
from dynamoc.runtime.served.completions import CompletionReader, completion_body
from dynamoc.runtime.served.http import Server
from dynamoc.runtime.served.samples import labels_of

COUNTED = Counted(
    fields={
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "prompt_tokens": "vllm:prompt_tokens_total",
        "generated_tokens": "vllm:generation_tokens_total",
        "cached_tokens": "vllm:prefix_cache_hits_total",
        "preemptions": "vllm:num_preemptions_total",
    },
    usage="vllm:kv_cache_usage_perc",
)
ASKED = {"do_remote_decode": True, "do_remote_prefill": False}
"""The blocks of this prompt are kept until another engine has read them."""
UNKNOWN = {"remote_engine_id": None, "remote_block_ids": None, "remote_host": None, "remote_port": None}


class _Handoff:
    """The prefill worker's answer says where the KV is; the decode worker's engine fetches it."""

    at_once = False
    alone = True

    def prefill(self, body: Body, peer: Endpoint, room: int) -> Body:
        """One token, not streamed, which the other side computes again."""
        del peer, room
        plain = {key: value for key, value in body.items() if key not in ("stream_options", "logprobs")}
        return {**plain, "max_tokens": 1, "stream": False, "kv_transfer_params": {**ASKED, **UNKNOWN}}

    def decode(self, body: Body, peer: Endpoint, room: int, answer: Mapping[str, object]) -> Body:
        """As it was told."""
        del peer, room
        return {**body, "kv_transfer_params": answer.get("kv_transfer_params")}


class VllmApi:
    """`/v1/completions` with token ids."""

    path = "/v1/completions"
    handoff = _Handoff()
    counted = COUNTED

    def refusal(self, request: EngineRequest) -> str | None:
        """A replay under penalties."""
        return forgets_penalties(request)

    def body(self, request: EngineRequest, model: str) -> Body:
        """Its default of `top_k` is all, as ours."""
        body = {**completion_body(request, model), "return_token_ids": True}
        logprobs = request.sampling.logprobs
        if logprobs >= 0:
            body |= {"logprobs": logprobs, "return_tokens_as_token_ids": True}
        return body

    def reader(self, request: EngineRequest) -> CompletionReader:
        """For one choice."""
        return CompletionReader(request.sampling.logprobs)

    async def facts(self, server: Server) -> Facts:
        """The context from its list of models, the pool from its metrics."""
        page = (await server.get("/metrics", FACTS_LIMIT_S)).decode()
        cache = labels_of(page, "vllm:cache_config_info")
        return Facts(
            block_size=_count(cache.get("block_size")),
            blocks=_count(cache.get("num_gpu_blocks")),
            context_length=(await model_of(server)).max_model_len or 0,
        )


def _count(label: str | None) -> int:
    return int(label) if label is not None and label.isdecimal() else 0


API = VllmApi()
