"""What gets through the plane."""

from __future__ import annotations

import asyncio
import random
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plane_examples import EXAMPLES
from plane_kit import (
    CLIENT,
    HERE,
    KEY,
    Ear,
    chopper,
    connected,
    listening,
)

from dynamoc.runtime.plane import messages as m
from dynamoc.runtime.plane.connection import Connection, PlaneError, dial


def test_every_message_has_an_example() -> None:
    assert {type(example) for example in EXAMPLES} == set(typing.get_args(m.AnyMessage))


def test_every_message_arrives_as_it_was_sent_and_in_order() -> None:
    async def main() -> None:
        async with connected() as (client, client_ear, served, server_ear):
            for example in EXAMPLES:
                client.send(example)
                served.send(example)
            for example in EXAMPLES:
                assert await server_ear.hear() == example
                assert await client_ear.hear() == example

    asyncio.run(main())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 3, 7, 5000]))
def test_however_the_stream_is_cut_the_messages_are_whole(seed: int, largest: int) -> None:
    async def main() -> None:
        async with listening() as (server, ear), chopper(server.port, random.Random(seed), largest) as port:
            client = await dial(HERE, port, CLIENT, KEY, Ear())
            short = [example for example in EXAMPLES if not isinstance(example, m.RouteRequest)]
            for example in short:
                client.send(example)
            for example in short:
                assert await ear.hear() == example
            client.abort("done")
            await ear.end()

    asyncio.run(main())


def test_what_was_queued_is_sent_before_a_close() -> None:
    async def main() -> None:
        async with connected() as (client, client_ear, _, server_ear):
            for k in range(1000):
                client.send(m.RouteRequest(k, b"\0" * 4096, 1))
            client.close("done here")
            for k in range(1000):
                message = await server_ear.hear()
                assert isinstance(message, m.RouteRequest)
                assert message.request_id == k
            assert await client_ear.end() == "done here"
            assert "closed the connection" in await server_ear.end()

    asyncio.run(main())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_closed_connection_says_so_to_who_sends(end: str) -> None:
    async def main() -> None:
        async with connected() as (client, client_ear, _, server_ear):
            getattr(client, end)("enough")
            assert not client.is_open
            with pytest.raises(PlaneError, match="enough"):
                client.send(m.Draining())
            assert await client_ear.end() == "enough"
            with pytest.raises(PlaneError, match="enough"):
                client.send(m.Draining())
            await server_ear.end()
            client.close("again")
            client.abort("again")
            await asyncio.sleep(0.05)
            assert client_ear.ends.empty(), "told twice of one end"

    asyncio.run(main())


def test_nothing_is_heard_after_our_own_close() -> None:
    async def main() -> None:
        async with connected() as (client, _, served, server_ear):
            heard = server_ear.messages

            def received(connection: Connection, message: m.Message) -> None:
                heard.put_nowait(message)
                connection.abort("one is enough")

            server_ear.received = received  # type: ignore[method-assign]
            for k in range(50):  # in one segment
                client.send(m.Cancel(k))
            await server_ear.end()
            assert heard.qsize() == 1
            assert not served.is_open

    asyncio.run(main())
