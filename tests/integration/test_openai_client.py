"""The official client against a running disaggregated pipeline with a real model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from pipelines import SMOLLM2, Pipeline, serving

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
MODEL = "SmolLM2-135M-Instruct"
PARIS = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    spec = (ROOT / "specs/graphs/quickstart.yaml").read_text()
    spec = spec.replace("bfloat16", "float32")  # greedy text must not hang on how a processor rounds
    with serving(spec, tmp_path_factory.mktemp("openai")) as running:
        yield running


@pytest.fixture
def client(pipeline: Pipeline) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{pipeline.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_a_chat_answer_is_right_and_counted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0, max_tokens=24)

    assert answer.choices[0].message.content.startswith("The capital of France is Paris")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 24


def test_streaming_gives_the_same_text_and_usage(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0, max_tokens=24)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=PARIS,
            temperature=0,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_max_tokens_cuts_with_length(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0, max_tokens=3)

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_a_stop_string_is_not_part_of_the_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0, max_tokens=24, stop=[" Paris"])

    assert answer.choices[0].message.content == "The capital of France is"
    assert answer.choices[0].finish_reason == "stop"


def test_n_gives_as_many_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=1.2, seed=7, n=3, max_tokens=12)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_a_seed_makes_sampling_repeatable(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str:
        answer = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=1.5, seed=seed, max_tokens=16)
        return answer.choices[0].message.content

    answers = [ask(seed) for seed in range(3)]
    assert ask(1) == answers[1]
    assert len(set(answers)) > 1


def test_a_tiny_top_p_is_greedy(client: openai.OpenAI) -> None:
    greedy = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=0, max_tokens=12)
    narrow = client.chat.completions.create(model=MODEL, messages=PARIS, temperature=1, top_p=1e-6, max_tokens=12)

    assert narrow.choices[0].message.content == greedy.choices[0].message.content


def test_logprobs_are_probabilities_of_the_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=PARIS, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )

    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token
        assert [t.logprob for t in token.top_logprobs] == sorted((t.logprob for t in token.top_logprobs), reverse=True)


def test_completions_with_echo_and_token_prompts(client: openai.OpenAI) -> None:
    plain = client.completions.create(model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=4)
    echoed = client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=4, echo=True
    )

    assert echoed.choices[0].text == "The capital of France is" + plain.choices[0].text

    several = client.completions.create(model=MODEL, prompt=["One, two,", "A, B,"], temperature=0, max_tokens=4)

    assert [choice.index for choice in several.choices] == [0, 1]


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"model": "gpt-5"}, openai.NotFoundError, "gpt-5"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"top_p": 0.0}, openai.BadRequestError, "top_p"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, openai.BadRequestError, "context"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temperature"),
    ],
)
def test_wrong_requests_are_answered_in_openai_s_shape(
    client: openai.OpenAI, change: dict[str, object], error: type[openai.APIStatusError], word: str
) -> None:
    arguments = {"model": MODEL, "messages": PARIS, "max_tokens": 4, **change}

    with pytest.raises(error) as raised:
        client.chat.completions.create(**arguments)

    assert word in raised.value.message
    assert raised.value.body["type"]


def test_a_client_s_timeout_frees_the_request(client: openai.OpenAI, pipeline: Pipeline) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1.0).chat.completions.create(
            model=MODEL, messages=PARIS, temperature=0, max_tokens=1900, extra_body={"ignore_eos": True}
        )

    async def idle() -> None:
        async with asyncio.timeout(30):
            while any(pipeline.metric(f"decode-{k}", "dynamoc_worker_running_requests") for k in range(2)):
                await asyncio.sleep(0.1)

    asyncio.run(idle())


def test_sixty_four_concurrent_streams_all_finish(pipeline: Pipeline) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        chunks = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Count from {number}."}],
            temperature=0,
            max_tokens=6,
            stream=True,
        )
        return "".join([c.choices[0].delta.content or "" async for c in chunks])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{pipeline.url}/v1", api_key="none", timeout=120) as client:
            return await asyncio.gather(*(one(client, number) for number in range(64)))

    assert all(asyncio.run(all_of_them()))


def test_blocks_moved_by_the_declared_transport(pipeline: Pipeline, client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "river stone " * 60}], temperature=0, max_tokens=4
    )

    moved = sum(pipeline.metric(f"prefill-{k}", "dynamoc_kv_transfer_blocks_total", transport="shm") for k in range(2))
    received = sum(
        pipeline.metric(f"decode-{k}", "dynamoc_kv_received_blocks_total", transport="shm") for k in range(2)
    )
    wrong = sum(pipeline.metric(f"decode-{k}", "dynamoc_kv_checksum_failures_total") for k in range(2))
    assert moved >= received > 0
    assert wrong == 0
