"""What clients get when nothing goes wrong."""

from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from peers import CONTEXT, MODEL, Stack, events, running

from dynamoc.runtime.kv.hashing import unpack_tokens

PROMPT = "hello the quick brown fox. "


def test_chat_whole_and_streamed_agree_and_are_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            whole = (await stack.chat(max_tokens=9)).json()
            response = await stack.chat(max_tokens=9, stream=True, stream_options={"include_usage": True})

            assert response.headers["content-type"].startswith("text/event-stream")
            chunks = events(response)
            *deltas, closing, usage = chunks
            assert deltas[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in deltas)
            assert text == whole["choices"][0]["message"]["content"] != ""
            assert closing["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
            assert usage["choices"] == []
            assert all(chunk["usage"] is None for chunk in chunks[:-1])
            ids = unpack_tokens(stack.workers[0].generates[0].tokens)
            prompt = "<bos>hello the fox<eos>"
            assert ids == stack.tokenizer.encode(prompt, add_special_tokens=False).ids
            assert usage["usage"] == whole["usage"]
            assert usage["usage"] == {
                "prompt_tokens": len(ids),
                "completion_tokens": 9,
                "total_tokens": len(ids) + 9,
                "prompt_tokens_details": {"cached_tokens": 2},
            }
            assert len({chunk["id"] for chunk in chunks}) == 1
            assert chunks[0]["id"].startswith("chatcmpl-")

    asyncio.run(scenario())


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_usage_so_far_goes_with_every_piece_of_its_own_choice(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            options = {"include_usage": True, "continuous_usage_stats": True}
            asked: dict[str, Any] = {"stream": True, "stream_options": options}
            *chunks, last = events(await stack.chat(max_tokens=9, **asked))
            counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
            assert (counts[0], counts[-1]) == (0, 9), "the role comes before any token"
            assert counts == sorted(counts)
            assert all(chunk["usage"]["prompt_tokens"] == last["usage"]["prompt_tokens"] > 0 for chunk in chunks)
            assert all(chunk["usage"]["total_tokens"] == chunk["usage"]["prompt_tokens"] + count
                       for chunk, count in zip(chunks, counts, strict=True))  # fmt: skip
            assert (last["choices"], last["usage"]) == ([], chunks[-1]["usage"])
            plain = events(await stack.chat(max_tokens=9, stream=True))
            assert text_of(plain) == text_of(chunks), "nothing else differs, but for where tokens met on their way"
            assert all(chunk.get("usage") is None for chunk in plain)

            *chunks, last = events(await stack.complete([PROMPT, "dog"], n=2, logprobs=0, max_tokens=5, **asked))
            ended = {c["choices"][0]["index"]: c["usage"] for c in chunks if c["choices"][0]["finish_reason"]}
            prompts = [len(stack.tokenizer.encode(text).ids) for text in (PROMPT, "dog")]
            assert [ended[index]["prompt_tokens"] for index in range(4)] == [n for n in prompts for _ in range(2)]
            assert [ended[index]["completion_tokens"] for index in range(4)] == [5] * 4
            assert last["usage"]["total_tokens"] == sum(prompts) + 20
            assert all(c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["text"])

            alone = events(await stack.complete(PROMPT, stream=True, stream_options={"continuous_usage_stats": True}))
            assert all(chunk["choices"] and chunk["usage"] for chunk in alone), "the last chunk was not asked for"

    asyncio.run(scenario())


def test_the_router_learns_how_each_request_fares(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            await asyncio.gather(*(stack.complete(PROMPT) for _ in range(4)))
            await asyncio.sleep(0.1)

            asked = [request.request_id for request in stack.router.asked]
            assert len(set(asked)) == 4
            assert sorted(stack.router.computed) == sorted(asked)
            assert sorted(stack.router.ended) == sorted(asked)
            assert all(not worker.cancelled for worker in stack.workers)

    asyncio.run(scenario())


def test_completions_take_text_texts_and_tokens(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            ids = stack.tokenizer.encode(PROMPT).ids
            other = stack.tokenizer.encode("dog dog").ids
            expected = stack.echo(PROMPT, 8)

            for prompt, texts in (
                (PROMPT, [expected]),
                (ids, [expected]),
                ([PROMPT, "dog dog"], [expected, stack.echo("dog dog", 8)]),
                ([ids, other], [expected, stack.echo("dog dog", 8)]),
            ):
                answer = (await stack.complete(prompt)).json()
                assert [choice["text"] for choice in answer["choices"]] == texts
                assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))
            echoed = (await stack.complete([ids, other], echo=True, n=2)).json()
            assert [choice["text"] for choice in echoed["choices"]] == [PROMPT + expected] * 2 + [
                "dog dog" + stack.echo("dog dog", 8)
            ] * 2
            streamed = events(await stack.complete(PROMPT, echo=True, stream=True))
            assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == PROMPT + expected

    asyncio.run(scenario())


def test_n_choices_differ_by_their_seed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            answer = (await stack.complete(PROMPT, n=3, seed=2**63 - 2)).json()
            chunks = events(await stack.complete(PROMPT, n=3, seed=7, stream=True))

            seeds = [g.sampling.seed for worker in stack.workers for g in worker.generates]
            assert sorted(seeds) == [0, 7, 8, 9, 2**63 - 2, 2**63 - 1]
            assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
            assert answer["usage"]["completion_tokens"] == 24
            assert answer["usage"]["prompt_tokens"] == len(stack.tokenizer.encode(PROMPT).ids)
            texts = ["", "", ""]
            for chunk in chunks:
                texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
            assert texts == [stack.echo(PROMPT, 8)] * 3
            finished = [chunk["choices"][0]["index"] for chunk in chunks if chunk["choices"][0]["finish_reason"]]
            assert sorted(finished) == [0, 1, 2]

    asyncio.run(scenario())


def test_a_stop_string_across_tokens_cuts_exactly_and_cancels(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            for worker in stack.workers:
                worker.pace_s = 0.005
            whole = (await stack.complete(PROMPT, max_tokens=400, stop=["ck bro", "zzz"])).json()["choices"][0]
            chunks = events(await stack.complete(PROMPT, max_tokens=400, stop="ck bro", stream=True))
            await asyncio.sleep(0.1)

            assert (whole["text"], whole["finish_reason"]) == ("hello the qui", "stop")
            assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "hello the qui"
            assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
            assert sum(len(worker.cancelled) for worker in stack.workers) == 2

            shown = stack.tokenizer.encode(PROMPT).ids
            by_token = (await stack.complete(PROMPT, max_tokens=400, stop_token_ids=[shown[3]])).json()["choices"][0]
            assert (by_token["text"], by_token["finish_reason"]) == (stack.tokenizer.decode(shown[:3]), "stop")

    asyncio.run(scenario())


def test_characters_never_come_in_halves(tmp_path: Path) -> None:
    prompt = "日本🎉é"

    async def scenario() -> None:
        async with running(tmp_path) as stack:
            ids = len(stack.tokenizer.encode(prompt).ids)
            assert ids > len(prompt)
            chunks = events(await stack.complete(prompt, max_tokens=2 * ids, stream=True))
            cut = (await stack.complete(prompt, max_tokens=ids + 2)).json()["choices"][0]["text"]

            pieces = [chunk["choices"][0]["text"] for chunk in chunks]
            assert "".join(pieces) == prompt * 2
            assert cut == prompt + "\ufffd"

    asyncio.run(scenario())


def test_chat_logprobs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            content = "hello é. "
            whole = (await stack.chat(content, logprobs=True, top_logprobs=2, max_tokens=12)).json()["choices"][0]
            chunks = events(await stack.chat(content, logprobs=True, top_logprobs=2, max_tokens=12, stream=True))

            tokens = whole["logprobs"]["content"]
            assert len(tokens) == 12
            assert all(token["logprob"] == -0.25 and len(token["top_logprobs"]) == 2 for token in tokens)
            shown = b"".join(bytes(token["bytes"]) for token in tokens if token["token"] not in ("<bos>", "<eos>"))
            assert shown.decode(errors="replace") == whole["message"]["content"]
            streamed = [
                token for chunk in chunks for token in (chunk["choices"][0].get("logprobs") or {}).get("content", [])
            ]
            assert streamed == tokens
            plain = (await stack.chat(content, logprobs=True)).json()["choices"][0]
            assert plain["logprobs"]["content"][0]["top_logprobs"] == []

    asyncio.run(scenario())


def test_completion_logprobs_leave_out_what_the_stop_string_cut(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            answer = (await stack.complete(PROMPT, logprobs=1, max_tokens=40, stop=" fox")).json()["choices"][0]

            logprobs = answer["logprobs"]
            assert answer["text"] == "hello the quick brown"
            assert logprobs["tokens"][0] == "<bos>"
            assert "".join(logprobs["tokens"][1:]) == answer["text"]
            lengths = [0, *map(len, logprobs["tokens"][1:])]
            assert logprobs["text_offset"] == [0, *itertools.accumulate(lengths[:-1])]
            assert logprobs["token_logprobs"] == [-0.25] * len(lengths)
            assert all(len(top) == 1 for top in logprobs["top_logprobs"])

    asyncio.run(scenario())


def test_sampling_reaches_the_worker_as_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, workers=1) as stack:
            await stack.complete(
                PROMPT, temperature=0.5, top_p=0.25, top_k=7, seed=-1, ignore_eos=True, presence_penalty=0.5,
                frequency_penalty=-0.5, stop_token_ids=[399], max_tokens=5, user="u", store=False, min_p=0, suffix=None,
            )  # fmt: skip
            await stack.chat(max_tokens=None)
            first, second = stack.workers[0].generates

            sampling = first.sampling
            assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 7)
            assert (sampling.seed, sampling.ignore_eos, sampling.stop_token_ids) == (2**63 - 1, True, (399,))
            assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
            assert (sampling.max_tokens, sampling.logprobs) == (5, -1)
            assert 0 < first.deadline_s <= 600
            assert second.sampling.max_tokens == CONTEXT - len(unpack_tokens(second.tokens))
            assert second.sampling.temperature == 1.0

    asyncio.run(scenario())


def test_a_long_prompt_is_tokenised_alike(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, workers=1) as stack:
            text = "the quick brown fox " * 200
            await stack.complete(text)

            assert unpack_tokens(stack.workers[0].generates[0].tokens) == stack.tokenizer.encode(text).ids

    asyncio.run(scenario())


def test_sixty_four_streams_do_not_mix(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            for worker in stack.workers:
                worker.pace_s = 0.002
            prompts = [f"{number} {PROMPT}{number}" for number in range(64)]
            responses = await asyncio.gather(*(stack.complete(p, max_tokens=40, stream=True) for p in prompts))

            for prompt, response in zip(prompts, responses, strict=True):
                text = "".join(chunk["choices"][0]["text"] for chunk in events(response))
                assert text == stack.echo(prompt, 40)
            exposition = (await stack.client.get("/metrics")).text
            assert sample(exposition, "dynamoc_frontend_output_tokens_total") == 64 * 40
            assert sample(exposition, "dynamoc_frontend_inflight_requests") == 0
            assert sample(exposition, "dynamoc_frontend_time_to_first_token_seconds_count") == 64
            assert sample(exposition, "dynamoc_frontend_requests_total", 'status="200"') == 64
            gaps = "dynamoc_frontend_inter_token_latency_seconds"
            assert 32 * 39 < sample(exposition, f"{gaps}_count") <= 64 * 39
            assert sample(exposition, f"{gaps}_bucket", 'le="+Inf"') == sample(exposition, f"{gaps}_count")
            assert 64 * 39 * 0.001 < sample(exposition, f"{gaps}_sum") < 64 * 20

    asyncio.run(scenario())


def sample(exposition: str, name: str, label: str = "") -> float:
    """The sum of a metric's samples that carry `label`."""
    found = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", exposition, re.MULTILINE)
    return sum(float(value) for labels, value in found if label in labels)


def test_the_official_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as stack:
            await asyncio.to_thread(use_official_client, stack)

    def use_official_client(stack: Stack) -> None:
        messages: Any = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": PROMPT}]
        url = f"http://127.0.0.1:{stack.port}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == [MODEL]
            assert client.models.retrieve(MODEL).id == MODEL
            whole = client.chat.completions.create(model=MODEL, messages=messages, max_completion_tokens=20)
            echo: Any = [*messages, whole.choices[0].message.model_dump(), {"role": "user", "content": "hello"}]
            client.chat.completions.create(model=MODEL, messages=echo, max_tokens=2)
            with client.chat.completions.create(model=MODEL, messages=messages, max_tokens=20, stream=True) as chunks:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            assert text == whole.choices[0].message.content
            completion = client.completions.create(model=MODEL, prompt=PROMPT, logprobs=1, max_tokens=3)
            assert completion.choices[0].text == stack.echo(PROMPT, 3)
            with pytest.raises(openai.NotFoundError, match="gpt-9"):
                client.completions.create(model="gpt-9", prompt=PROMPT)

    asyncio.run(scenario())
