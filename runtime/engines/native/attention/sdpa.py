"""Attention with torch's own kernels: gather the blocks, then attend. For any device; the reference for others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dynamoc.runtime.engines.native.batch import Batch, Span
from dynamoc.runtime.kv.layout import KvLayout

GROUP_WASTE_BLOCKS = 12
"""Padding blocks worth one more kernel call: gathering and attending a block takes 2 µs, a call 25 µs."""

TILE = 256
"""Query rows of a prefill attended at once; keys after a tile's end are not looked at."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows `start` to `end`, one a sequence. `index` gathers `[2, rows, kv_heads, blocks]`, `mask` hides padding."""

    start: int
    end: int
    index: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Tile:
    """Query rows `start` to `end` of the batch see the first `keys` keys of their sequence, as `mask` allows."""

    start: int
    end: int
    keys: int
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Prefill:
    """One chunk. `index` gathers `[2, kv_heads, blocks]`."""

    index: Tensor
    tiles: list[Tile]


class SdpaAttention:
    """Query heads of a group are packed into the query length, which keeps the fast kernel for grouped heads.

    `pool` is one-dimensional, of the pool's dtype; keys and values are computed with in `dtype`.
    """

    def __init__(self, pool: Tensor, layout: KvLayout, heads: int, dtype: torch.dtype) -> None:
        self.layout = layout
        self.heads = heads
        self.dtype = dtype
        self.device = pool.device
        self.layer_pages, self.layer_rows = _views(pool, layout)
        self.store_index = torch.empty(0, dtype=torch.int64)
        self.groups: list[DecodeGroup] = []
        self.prefills: list[Prefill] = []

    def plan(self, batch: Batch) -> None:
        """Indices are those of layer 0, made on the host; each layer applies them to its own view of the pool."""
        layout = self.layout
        pages = self._pages(batch.slots // layout.block_size)
        rows = pages * layout.block_size + (batch.slots % layout.block_size).unsqueeze(1)
        self.store_index = rows.flatten().to(self.device)
        self.groups = [self._group(group) for group in _groups(batch.decodes)]
        self.prefills = [self._prefill(span) for span in batch.prefills]

    def run(self, layer: int, qkv: Tensor) -> Tensor:
        """Store, gather, attend."""
        stored = qkv[:, self.heads :].to(self.layer_rows[layer].dtype)
        self.layer_rows[layer].index_copy_(0, self.store_index, stored.reshape(-1, self.layout.head_dim))
        if len(self.groups) == 1 and not self.prefills:
            return self._decode(self.groups[0], layer, qkv)
        out = torch.empty_like(qkv[:, : self.heads], memory_format=torch.contiguous_format)
        for group in self.groups:
            out[group.start : group.end] = self._decode(group, layer, qkv)
        for prefill in self.prefills:
            self._attend(prefill, layer, qkv, out)
        return out

    def _decode(self, group: DecodeGroup, layer: int, qkv: Tensor) -> Tensor:
        layout, rows = self.layout, group.end - group.start
        keys, values = self._gather(layer, group.index, rows)
        query = qkv[group.start : group.end, : self.heads].reshape(rows, layout.heads, -1, layout.head_dim)
        out = scaled_dot_product_attention(query, keys, values, attn_mask=group.mask)
        return out.reshape(rows, self.heads, layout.head_dim)

    def _attend(self, prefill: Prefill, layer: int, qkv: Tensor, out: Tensor) -> None:
        """Query heads of a KV head are the batch's second dimension here, its keys are shared without a copy."""
        layout, shared = self.layout, self.heads // self.layout.heads
        keys, values = (
            part.view(layout.heads, 1, -1, layout.head_dim) for part in self._gather(layer, prefill.index, 1)
        )
        for tile in prefill.tiles:
            query = qkv[tile.start : tile.end, : self.heads].transpose(0, 1).unflatten(0, (layout.heads, shared))
            seen_keys = keys[:, :, : tile.keys].expand(-1, shared, -1, -1)
            seen_values = values[:, :, : tile.keys].expand(-1, shared, -1, -1)
            attended = scaled_dot_product_attention(query, seen_keys, seen_values, attn_mask=tile.mask)
            out[tile.start : tile.end] = attended.flatten(0, 1).transpose(0, 1)

    def _gather(self, layer: int, index: Tensor, sequences: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[sequences, kv_heads, tokens, head_dim]`."""
        pages = self.layer_pages[layer].index_select(0, index).to(self.dtype)
        keys, values = pages.view(2, sequences, self.layout.heads, -1, self.layout.head_dim).unbind(0)
        return keys, values

    def _pages(self, blocks: Tensor) -> Tensor:
        """Page indices `[…, 2 × kv_heads]` of layer 0: a page is one head's keys or values of one block."""
        count = 2 * self.layout.heads
        return blocks.unsqueeze(-1) * (self.layout.layers * count) + torch.arange(count)

    def _group(self, spans: list[Span]) -> DecodeGroup:
        layout, longest = self.layout, max(len(span.blocks) for span in spans)
        # A sequence's own first block fills its row up: those bytes are finite, and the mask hides them.
        table = torch.tensor([span.blocks + span.blocks[:1] * (longest - len(span.blocks)) for span in spans])
        index = self._pages(table).view(len(spans), longest, 2, layout.heads).permute(2, 0, 3, 1)
        lengths = torch.tensor([span.length for span in spans])
        hidden = torch.arange(longest * layout.block_size) >= lengths.unsqueeze(1)
        mask = torch.zeros(hidden.shape, dtype=self.dtype).masked_fill_(hidden, -torch.inf)
        return DecodeGroup(
            spans[0].row, spans[-1].row + 1, index.flatten().to(self.device), mask[:, None, None].to(self.device)
        )

    def _prefill(self, span: Span) -> Prefill:
        index = self._pages(torch.tensor(span.blocks)).permute(1, 0).flatten().to(self.device)
        return Prefill(index, [self._tile(span, first) for first in range(0, span.count, TILE)])

    def _tile(self, span: Span, first: int) -> Tile:
        end = min(first + TILE, span.count)
        keys = span.start + end
        hidden = torch.ones(end - first, keys, dtype=torch.bool).triu_(span.start + first + 1)
        mask = torch.zeros(hidden.shape, dtype=self.dtype).masked_fill_(hidden, -torch.inf)
        return Tile(span.row + first, span.row + end, keys, mask.to(self.device))


def _views(pool: Tensor, layout: KvLayout) -> tuple[list[Tensor], list[Tensor]]:
    """Per layer, the pool from its first byte on as pages `[…, block_size × head_dim]` and as rows `[…, head_dim]`."""
    page = layout.block_size * layout.head_dim
    starts = [layer * layout.parts * layout.heads * page for layer in range(layout.layers)]
    return [pool[start:].view(-1, page) for start in starts], [
        pool[start:].view(-1, layout.head_dim) for start in starts
    ]


def _groups(decodes: list[Span]) -> list[list[Span]]:
    """Cut decodes, shortest first, where padding the shorter ones would cost more than another call."""
    groups: list[list[Span]] = []
    waste = 0
    for span in decodes:
        if groups:
            waste += len(groups[-1]) * (len(span.blocks) - len(groups[-1][-1].blocks))
        if groups and waste <= GROUP_WASTE_BLOCKS:
            groups[-1].append(span)
        else:
            groups.append([span])
            waste = 0
    return groups
