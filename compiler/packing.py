"""Which node takes what: a depth-first search whose first descent is best fit, so a fit is found where one exists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import NamedTuple

SEARCH_STEPS = 5_000


class Resources(NamedTuple):
    """What something needs, or what a node has left."""

    gpus: int = 0
    cpus: int = 0
    memory_bytes: int = 0

    def plus(self, other: Resources) -> Resources:
        """Both together."""
        return Resources(self.gpus + other.gpus, self.cpus + other.cpus, self.memory_bytes + other.memory_bytes)

    def minus(self, other: Resources) -> Resources:
        """What is left without `other`."""
        return Resources(self.gpus - other.gpus, self.cpus - other.cpus, self.memory_bytes - other.memory_bytes)

    def fits(self, room: Resources) -> bool:
        """Whether it fits into `room`."""
        return self.gpus <= room.gpus and self.cpus <= room.cpus and self.memory_bytes <= room.memory_bytes


def total(items: Sequence[Resources]) -> Resources:
    """The sum."""
    return reduce(Resources.plus, items, Resources())


def pack(
    demands: Sequence[Resources],
    rooms: Sequence[Resources],
    groups: Sequence[int] | None = None,
    spread: bool = False,
) -> tuple[int, ...] | None:
    """The node of each demand; None if there is no fit, or none found within a bounded search.

    Put large demands first: what the search tries first is then what people expect. Demands of one of the `groups`
    stand beside each other and go to different nodes. With `spread`, empty nodes are tried first.
    """
    if not total(demands).fits(total(rooms)):
        return None
    search = _Search(demands, rooms, groups or range(len(demands)), spread)
    return search.run()


def fill(units: Sequence[Sequence[int]], rooms: Sequence[int]) -> list[list[tuple[int, int]]] | None:
    """(node, GPUs) of each unit, node after node: those with several parts take what they find, in order."""
    free = list(rooms)
    taken: list[list[tuple[int, int]]] = [[] for _ in units]
    for number in sorted(range(len(units)), key=lambda n: -len(units[n])):
        wanted, several = sum(units[number]), len(units[number]) > 1
        for node, room in enumerate(free):
            gpus = min(room, wanted) if several else wanted
            if not several and room < wanted:
                continue
            if gpus:
                taken[number].append((node, gpus))
                free[node] -= gpus
                wanted -= gpus
            if not wanted:
                break
        if wanted:
            return None
    return [own or [(0, 0)] for own in taken]


class _Search:
    def __init__(
        self, demands: Sequence[Resources], rooms: Sequence[Resources], groups: Sequence[int], spread: bool
    ) -> None:
        self.demands = demands
        self.groups = groups
        self.spread = spread
        self.rooms = rooms
        self.free = list(rooms)
        self.light = [0] * len(rooms)
        """Demands without GPUs on each node: they are spread, where those with GPUs are packed."""
        self.chosen: list[int] = []

    def run(self) -> tuple[int, ...] | None:
        if not self.demands:
            return ()
        stack = [self._candidates(self.demands[0])]
        for _ in range(len(self.demands) + SEARCH_STEPS):
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                if not stack:
                    return None
                self._undo()
                continue
            self._take(node)
            if len(self.chosen) == len(self.demands):
                return tuple(self.chosen)
            stack.append(self._candidates(self.demands[len(self.chosen)]))
        return None

    def _candidates(self, demand: Resources) -> Iterator[int]:
        """Nodes with room, best first, and of nodes that are alike only the first."""
        states = zip(self.free, self.rooms, self.light, strict=True)
        alike: dict[tuple[Resources, Resources, int], int] = {}
        beside = self._beside()
        for node, state in enumerate(states):
            if node not in beside:
                alike.setdefault(state, node)
        fitting = [node for (free, _, _), node in alike.items() if demand.fits(free)]
        if demand.gpus:
            sign = -1 if self.spread else 1
            return iter(sorted(fitting, key=lambda node: (sign * self.free[node].gpus, node)))
        return iter(sorted(fitting, key=lambda node: (self._crowding(node), node)))

    def _beside(self) -> set[int]:
        """Nodes of the other demands of the same group."""
        nodes: set[int] = set()
        for index in range(len(self.chosen) - 1, -1, -1):
            if self.groups[index] != self.groups[len(self.chosen)]:
                break
            nodes.add(self.chosen[index])
        return nodes

    def _crowding(self, node: int) -> float:
        room = self.rooms[node]
        used = room.minus(self.free[node])
        memory = used.memory_bytes / room.memory_bytes if room.memory_bytes else 0.0
        return max((self.light[node] + 1) / max(room.cpus, 1), used.cpus / max(room.cpus, 1), memory)

    def _take(self, node: int) -> None:
        demand = self.demands[len(self.chosen)]
        self.free[node] = self.free[node].minus(demand)
        self.light[node] += not demand.gpus
        self.chosen.append(node)

    def _undo(self) -> None:
        node = self.chosen.pop()
        demand = self.demands[len(self.chosen)]
        self.free[node] = self.free[node].plus(demand)
        self.light[node] -= not demand.gpus
