"""The echo engine: the prompt, then the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from driving import Core, request, settings

from dynamoc.runtime.engines.echo import EchoRunner


def core(**fields: object) -> Core:
    worker = settings("echo", **fields)
    return Core(worker, EchoRunner(worker, Path()))


def test_it_repeats_the_prompt_and_stops():
    echo = core()
    echo.scheduler.add(request(1, [5, 6, 7], 100))
    echo.run()

    assert echo.tokens[1] == [5, 6, 7, 0]
    assert echo.finished[1].finish == "stop"
    echo.close()


def test_it_goes_on_with_the_end_when_told_to_ignore_it():
    echo = core(args={"eos_token_id": 2})
    echo.scheduler.add(request(1, [5, 6], 5, ignore_eos=True))
    echo.run()

    assert echo.tokens[1] == [5, 6, 2, 2, 2]
    assert echo.finished[1].finish == "length"
    echo.close()


def test_a_replay_echoes_the_original_prompt():
    echo = core()
    echo.scheduler.add(request(1, [5, 6, 7, 5, 6], 100, generated=2))
    echo.run()

    assert echo.tokens[1] == [7, 0]
    echo.close()


def test_preempted_or_cut_in_chunks_it_says_the_same():
    echo = core(blocks=7, max_batched_tokens=5)
    prompts = {key: [key + 1] * 9 for key in range(4)}
    for key, prompt in prompts.items():
        echo.scheduler.add(request(key, prompt, 100))
    echo.run()

    assert echo.report.stats.preemptions > 0
    assert {key: echo.tokens[key] for key in prompts} == {key: [*prompt, 0] for key, prompt in prompts.items()}
    echo.close()


def test_wrong_arguments_are_explained():
    with pytest.raises(ValueError, match="engine `echo` has no argument `speedup`; it knows: eos_token_id"):
        EchoRunner(settings("echo", args={"speedup": 1}), Path())
