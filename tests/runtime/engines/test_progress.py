"""Groups of layers: told in order, each layer of each block once, whatever a runner says and leaves out."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tiny import load_runner, write_model

from dynamoc.runtime.engines.native.progress import StepProgress, group_ends
from dynamoc.runtime.engines.native.sequence import Chunk, Sequence, Step
from dynamoc.runtime.engines.protocol import Written
from dynamoc.runtime.plane.messages import Sampling


def prompt(tokens: int, block_size: int) -> Sequence:
    blocks = list(range(100, 100 + -(-tokens // block_size)))
    return Sequence(7, [1] * tokens, tokens, Sampling(max_tokens=1), hold_kv=True, blocks=blocks)


@given(st.integers(1, 200))
def test_groups_cover_all_layers_and_become_smaller(layers: int):
    ends = group_ends(layers)
    sizes = [end - start for start, end in pairwise((0, *ends))]

    assert ends[-1] == layers
    assert min(sizes) >= 1
    assert max(sizes) <= max(1, layers // 4)
    assert sizes[1:] == sorted(sizes[1:], reverse=True)  # the first takes what is left over


@given(
    layers=st.integers(1, 12),
    block_size=st.integers(1, 5),
    resident=st.integers(0, 10),
    chunks=st.lists(st.tuples(st.integers(1, 12), st.sets(st.integers(1, 12))), min_size=1, max_size=6),
)
def test_each_layer_of_each_block_is_told_once(
    layers: int, block_size: int, resident: int, chunks: list[tuple[int, set[int]]]
):
    start = resident * block_size
    sequence = prompt(start + sum(count for count, _ in chunks), block_size)
    told: list[Written] = []
    for count, ends in chunks:
        end = start + count
        step = Step((Chunk(sequence, start, count, sample=end == len(sequence.tokens)),))
        progress = StepProgress(step, layers, block_size, told.append)
        for reached in sorted(ends):
            if reached <= layers:
                progress.reached(reached)
        progress.finish()
        complete = len(sequence.blocks) if end == len(sequence.tokens) else end // block_size
        assert sequence.told == complete, "what is full is told with its step, and nothing else"
        start = end

    cells = [(block, layer) for written in told for block in written.blocks for layer in written.layers]
    assert sorted(cells) == [(block, layer) for block in sequence.blocks for layer in range(layers)]
    assert all(written.blocks[0] == sequence.blocks[written.first] for written in told)


def test_the_model_tells_of_a_group_when_its_bytes_are_there(tmp_path):
    write_model(tmp_path, num_hidden_layers=4)
    runner = load_runner(tmp_path)
    layout, seen = runner.layout(), []

    def look(written: Written) -> None:
        """The told layers hold the prompt's KV already, the others do not."""
        block = bytes(runner.pool().block(written.blocks[0]))
        runs = [block[n * layout.layer_bytes : (n + 1) * layout.layer_bytes] for n in range(layout.layers)]
        seen.append((written.layers, [any(run) for run in runs], runs[: written.layers.stop]))

    sequence = Sequence(7, list(range(3, 14)), 11, Sampling(max_tokens=1, temperature=0.0), hold_kv=True)
    sequence.blocks = [5, 9, 2]
    step = Step((Chunk(sequence, 0, 11, sample=True),))
    progress = StepProgress(step, layout.layers, layout.block_size, look)
    runner.execute(step, progress)
    progress.finish()

    last = bytes(runner.pool().block(5))
    assert [layers for layers, _, _ in seen] == [range(n, n + 1) for n in range(4)]
    for layers, filled, runs in seen:
        assert filled == [n < layers.stop for n in range(4)]
        assert b"".join(runs) == last[: layers.stop * layout.layer_bytes]
    runner.close()
