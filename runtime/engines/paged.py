"""What the runners without a model share: a pool of tiny pages, checked and written at every step."""

from __future__ import annotations

from collections.abc import Callable

from dynamoc.runtime.engines.native.sequence import Sampled, Step
from dynamoc.runtime.engines.pages import Pages, page_layout
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.memory_service.kept import KeptPool, KeptShape
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.manifest import KvSettings
from dynamoc.runtime.plane.messages import TokenLogprob


class PagedRunner:
    """A `Runner` but for `execute` and the end-of-sequence tokens."""

    def __init__(self, kv: KvSettings, keep_as: str | None = None) -> None:
        """`keep_as`: what the pages mean, if they are to outlive this process."""
        self.kept: KeptPool | None = None
        self._keep_as = keep_as
        self._blocks = kv.blocks
        self._layout = page_layout(kv.block_size)
        self._pool: HostPool | None = None
        self._pages: Pages | None = None

    def load(self, progress: Callable[[float, str], None]) -> None:
        """Make the pool."""
        if self._keep_as is not None:
            self.kept = KeptPool(KeptShape(self._layout, self._blocks, self._keep_as))
        pool = self.kept.pool if self.kept is not None else HostPool(self._layout, self._blocks)
        assert isinstance(pool, HostPool)
        self._pool = pool
        self._pages = Pages(self._pool)
        progress(1.0, "pool")

    def layout(self) -> KvLayout:
        """Shape of the pages."""
        return self._layout

    def pool(self) -> HostPool:
        """The pages; after `load`."""
        assert self._pool is not None
        return self._pool

    def close(self) -> None:
        """Give the pool back."""
        self._pages = None
        if self.kept is not None:
            self.kept.close()
        elif self._pool is not None:
            self._pool.close()

    def read_and_write(self, step: Step) -> list[int]:
        """The KV word of each chunk's last token; PageError if a page that the step reads is wrong."""
        assert self._pages is not None
        return self._pages.step(step)


def certain(token: int, logprobs: int) -> Sampled:
    """A token that was the only choice, with logprobs where they are wanted."""
    if logprobs < 0:
        return Sampled(token)
    return Sampled(token, TokenLogprob(0.0, ((token, 0.0),) if logprobs else ()))
