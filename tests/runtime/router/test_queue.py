"""The queue of waiting requests against a plain list."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from dynamoc.runtime.router.queue import Ask, WaitingQueue

CAPACITY, TIMEOUT_S = 4, 10.0
steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from("ab"), st.integers(0, 3)),
        st.tuples(st.just("remove"), st.sampled_from("ab"), st.integers(0, 3)),
        st.tuples(st.just("leave"), st.sampled_from("ab"), st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 12)),
    ),
    max_size=30,
)


def ask(owner: str, request_id: int) -> Ask:
    return Ask(cast("Any", owner), request_id, b"", 1)


@given(steps)
def test_it_keeps_order_bound_and_deadlines(script: list[tuple[str, str, int]]) -> None:
    queue, model, now = WaitingQueue(CAPACITY, TIMEOUT_S), list[Ask](), 0.0
    for step, owner, number in script:
        if step == "push" and not any((a.owner, a.request_id) == (owner, number) for a in model):
            one = ask(owner, number)
            assert queue.push(one, now) == (len(model) < CAPACITY)
            if len(model) < CAPACITY:
                assert one.deadline == now + TIMEOUT_S
                model.append(one)
        elif step == "remove":
            gone = next((a for a in model if (a.owner, a.request_id) == (owner, number)), None)
            assert queue.remove(cast("Any", owner), number) is gone
            model = [a for a in model if a is not gone]
        elif step == "leave":
            assert queue.remove_owner(cast("Any", owner)) == [a for a in model if a.owner == cast("Any", owner)]
            model = [a for a in model if a.owner != cast("Any", owner)]
        elif step == "wait":
            now += number
            assert queue.expire(now) == [a for a in model if a.deadline <= now]
            model = [a for a in model if a.deadline > now]
        assert list(queue) == model
        assert len(queue) == len(model)
        assert queue.next_deadline() == (model[0].deadline if model else None)
