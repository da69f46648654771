"""Which rank sends which heads to which: from a worker of one tensor-parallel size to a worker of another."""

from __future__ import annotations

from typing import NamedTuple

from dynamoc.runtime.kv.layout import Heads


class Crossing(NamedTuple):
    """The KV heads that one rank of the source sends to one of the target, by the model's count."""

    source: int
    target: int
    heads: range


def heads_of(total: int, ranks: int, rank: int) -> Heads:
    """The KV heads of a rank: an even share, or one that several ranks repeat (GQA beyond its heads, MLA's latent).

    ValueError if neither comes out even.
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"there is no rank {rank} of {ranks}")
    if total % ranks and ranks % total:
        raise ValueError(f"{total} KV heads neither divide over {ranks} ranks nor repeat evenly")
    count = max(1, total // ranks)
    return Heads(rank * total // ranks, count, total)


def crossings(total: int, sources: int, targets: int) -> tuple[Crossing, ...]:
    """What makes every head of every target rank arrive exactly once, the sending spread over the ranks that can."""
    made: list[Crossing] = []
    for target in range(targets):
        wanted = heads_of(total, targets, target)
        for head in range(wanted.first, wanted.first + wanted.count):
            source = _sender(total, sources, targets, target, head)
            last = made[-1] if made else None
            if last is not None and last[:2] == (source, target) and last.heads.stop == head:
                made[-1] = last._replace(heads=range(last.heads.start, head + 1))
            else:
                made.append(Crossing(source, target, range(head, head + 1)))
    return tuple(made)


def _sender(total: int, sources: int, targets: int, target: int, head: int) -> int:
    """Ranks that repeat a head share the ranks that want it, in order."""
    holders, askers = _holders(total, sources, head), _holders(total, targets, head)
    return holders[askers.index(target) * len(holders) // len(askers)]


def _holders(total: int, ranks: int, head: int) -> list[int]:
    held = (heads_of(total, ranks, rank) for rank in range(ranks))
    return [rank for rank, heads in enumerate(held) if heads.first <= head < heads.first + heads.count]
