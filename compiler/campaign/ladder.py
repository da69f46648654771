"""Which loads of a ladder come next, from what those before came to. Pure, so a resumed campaign decides the same."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dynamoc.compiler.campaign.identity import point_id
from dynamoc.compiler.campaign.points import Ladder, Point, Search

Kept = Mapping[str, bool]
"""Points that are over, by id: whether each kept to the SLA. One that failed did not."""


def next_points(ladder: Ladder, kept: Kept, *, stops: bool) -> tuple[Point, ...]:
    """What to measure now; empty when the ladder is done."""
    if ladder.search is not None:
        probe = _probe(ladder.search, kept)
        return () if probe is None else (probe,)
    left = [point for point in ladder.points if point.id not in kept]
    if not stops:
        return tuple(left)
    breached = any(not kept.get(point.id, True) for point in ladder.points)
    return () if breached else tuple(left[:1])


def asked(ladder: Ladder, kept: Kept) -> tuple[Point, ...]:
    """Every point that a ladder has asked for so far; a search comes to the same ones again."""
    if ladder.search is None:
        return ladder.points
    seen: dict[str, bool] = {}
    found: list[Point] = []
    while (probe := _probe(ladder.search, seen)) is not None:
        found.append(probe)
        if probe.id not in kept:
            break
        seen[probe.id] = kept[probe.id]
    return tuple(found)


def left_out(ladder: Ladder, kept: Kept, *, stops: bool) -> tuple[Point, ...]:
    """Points that will not be measured, because a lighter one breached."""
    done = not next_points(ladder, kept, stops=stops)
    return tuple(point for point in ladder.points if done and point.id not in kept)


def at_most(ladder: Ladder) -> int:
    """How many points a ladder may take."""
    if ladder.search is None:
        return len(ladder.points)
    low, high = ladder.search.low, ladder.search.high
    return (high // low).bit_length() + (high - low).bit_length() + 1


def _probe(search: Search, kept: Kept) -> Point | None:
    """Double from the lowest until one breaches, then halve the interval."""
    good, probe = 0, search.low
    while (known := kept.get((point := at_concurrency(search, probe)).id)) is not None:
        if not known:
            return _bisect(search, kept, good, probe)
        if probe == search.high:
            return None
        good, probe = probe, min(2 * probe, search.high)
    return point


def _bisect(search: Search, kept: Kept, good: int, bad: int) -> Point | None:
    """`good` keeps to the SLA (or is below the search), `bad` does not."""
    good = max(good, search.low - 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        point = at_concurrency(search, middle)
        known = kept.get(point.id)
        if known is None:
            return point
        good, bad = (middle, bad) if known else (good, middle)
    return None


def at_concurrency(search: Search, concurrency: int) -> Point:
    """The point of a search at one concurrency: requests and warm-up in proportion."""
    top = search.point.load
    assert top.concurrency is not None
    assert top.requests is not None
    share = concurrency / top.concurrency
    load = msgspec.structs.replace(
        top,
        id=top.id.replace(f"c{top.concurrency}", f"c{concurrency}", 1),
        concurrency=concurrency,
        requests=max(1, round(top.requests * share)),
        warmup_requests=round(top.warmup_requests * share),
    )
    return msgspec.structs.replace(
        search.point, id=point_id(search.point.deployment, load, search.point.tool), load=load
    )
