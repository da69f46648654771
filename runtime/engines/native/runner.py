"""Real weights behind the engine: steps become tensors, tensors become tokens."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch

from dynamoc.runtime.engines.arguments import read_arguments
from dynamoc.runtime.engines.native.arriving import Arriving, NotArrivedError
from dynamoc.runtime.engines.native.attention.sdpa import SdpaAttention
from dynamoc.runtime.engines.native.batch import build_batch
from dynamoc.runtime.engines.native.linear import MakeLinear, PackedLinear, PlainLinear, packing_available
from dynamoc.runtime.engines.native.memory import KvMemory
from dynamoc.runtime.engines.native.models.config import ModelConfig, UnsupportedModelError, read_config
from dynamoc.runtime.engines.native.models.llama import Llama, build_llama, expected_tensors, optional_tensors
from dynamoc.runtime.engines.native.progress import StepProgress
from dynamoc.runtime.engines.native.sampler import sample
from dynamoc.runtime.engines.native.sequence import Chunk, Sampled, Sequence, Step
from dynamoc.runtime.engines.native.shared_weights import SharedWeights, identity_of
from dynamoc.runtime.engines.native.weights import TensorSource, Weights
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.memory_service.kept import KeptPool, KeptShape, keep_as
from dynamoc.runtime.kv.pool import Pool
from dynamoc.runtime.manifest import WorkerSettings
from dynamoc.runtime.plane.messages import Sampling

log = logging.getLogger("dynamoc.engine")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WARM_UP_TOKENS = 32
EVENTS = 64
"""Groups of layers of which peers may be told before the first of them is computed."""


class NativeArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The engine's `args`.

    `compute_dtype` `auto` computes 16-bit weights in float32 where the processor has no instructions for them; what
    was chosen is logged, and the KV pool keeps its declared dtype in any case. `threads` 0 means OMP_NUM_THREADS.
    `weights` `shared`: they outlive this process, and are there once for all workers of the run on a device or host.
    `kv` `kept`: the pool outlives it too, and the next life of the worker finds again what was in its prefix cache.
    """

    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    weights: Literal["private", "shared"] = "private"
    kv: Literal["private", "kept"] = "private"


class TorchRunner:
    """Runs one model on this process's CPU cores, or on its first GPU."""

    def __init__(self, settings: WorkerSettings, model_folder: Path) -> None:
        _check_settings(settings)
        self.settings = settings
        self.folder = model_folder
        self.config: ModelConfig = read_config(model_folder, settings.context_length)
        self.eos_token_ids = self.config.eos_token_ids
        self.device = torch.device("cuda:0" if settings.device == "cuda" else settings.device)
        self.arguments = read_arguments("native", settings.args, NativeArguments)
        self.dtype = _compute_dtype(self.arguments, settings.dtype, self.device)
        self._layout = _layout(self.config, settings)
        self.model: Llama | None = None
        self._attention: SdpaAttention | None = None
        self._memory: KvMemory | None = None
        self._shared: SharedWeights | None = None
        self.kept: KeptPool | None = None
        self._events: deque[torch.cuda.Event] = deque()

    def load(self, progress: Callable[[float, str], None]) -> None:
        """Read the weights, map the pool, run one step of each kind."""
        _set_threads(self.arguments.threads)
        with torch.inference_mode():
            self.model = self._build(lambda done: progress(0.8 * done, "weights"))
        blocks, dtype = self.settings.kv.blocks, DTYPES[self._layout.dtype]
        if self.arguments.kv == "kept":
            self.kept = KeptPool(self._kept_shape(blocks))
        self._memory = KvMemory(self._layout, blocks, dtype, self.device, self.kept)
        self._attention = SdpaAttention(self._memory.tensor, self._layout, self.config.heads, self.dtype)
        progress(0.9, "warm-up")
        self._warm_up()
        progress(1.0, "ready")

    def _kept_shape(self, blocks: int) -> KeptShape:
        identity = keep_as(f"native {identity_of(self.folder, self.dtype)}", self.settings)
        return KeptShape(self._layout, blocks, identity, None if self.device.type == "cpu" else self.device.index or 0)

    def _build(self, progress: Callable[[float], None]) -> Llama:
        def build(tensors: TensorSource, make: MakeLinear) -> Llama:
            return build_llama(self.config, tensors, self.dtype, self.settings.context_length, make, progress)

        def read() -> Weights:
            return Weights(self.folder, expected_tensors(self.config), optional_tensors(self.config), self.device)

        if self.arguments.weights == "private":
            return build(read(), _linear_maker(self.dtype, self.device))
        self._shared = SharedWeights(self.device)
        # Packed weights would be a copy, and nobody else's.
        return self._shared.build(
            identity_of(self.folder, self.dtype), read, lambda tensors: build(tensors, PlainLinear)
        )

    def layout(self) -> KvLayout:
        """Shape of the pool."""
        return self._layout

    def pool(self) -> Pool:
        """The pool; after `load`."""
        assert self._memory is not None, "load() comes first"
        return self._memory.pool

    def execute(
        self, step: Step, progress: StepProgress | None = None, arriving: Arriving | None = None
    ) -> list[Sampled]:
        """One forward pass over all chunks; only the sampled rows meet the LM head."""
        try:
            return self._execute(step, progress, arriving)
        except NotArrivedError:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # what was begun writes blocks that others may have soon
            raise

    def _execute(self, step: Step, progress: StepProgress | None, arriving: Arriving | None) -> list[Sampled]:
        assert self.model is not None, "load() comes first"
        assert self._attention is not None
        with torch.inference_mode():
            batch = build_batch(step, self._layout.block_size)
            self._attention.plan(batch)
            device = self.device
            stored = None if progress is None else self._stored(progress, arriving)
            needed = None if arriving is None else arriving.need
            tokens, positions = batch.tokens.to(device), batch.positions.to(device)
            hidden = self.model.hidden(tokens, positions, self._attention, stored, needed)
            if not batch.sampled:
                return []
            logits = self.model.logits(hidden.index_select(0, batch.sampled_rows.to(device)))
            # Tokens are drawn on the host; waiting for them also means that all KV before them is in the pool.
            return sample(logits.cpu(), batch.sampled)

    def _stored(self, progress: StepProgress, arriving: Arriving | None) -> Callable[[int], None]:
        """Tells `progress` of the groups of layers it wants to hear of, once the step cannot be void any more."""
        if arriving is None:
            progress.begin(self._event())

        def stored(layers: int) -> None:
            if layers in progress.ends and (arriving is None or arriving.is_complete):
                progress.reached(layers, self._event())

        return stored

    def _event(self) -> int | None:
        """Passes when the GPU has done what it was given so far; None where work is done at once.

        An event that is taken again too early only passes later.
        """
        if self.device.type != "cuda":
            return None
        if len(self._events) < EVENTS:
            self._events.append(torch.cuda.Event())
        else:
            self._events.rotate(-1)
        self._events[-1].record()
        return int(self._events[-1].cuda_event)

    def close(self) -> None:
        """Let go of weights and pool. Idempotent."""
        self.model = self._attention = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _warm_up(self) -> None:
        """A prefill and a decode, so that the first request pays for no first-time set-up; the pool stays as it is."""
        tokens = min(
            WARM_UP_TOKENS, self.settings.context_length - 1, self._layout.block_size * self.settings.kv.blocks - 1
        )
        if tokens < 1:
            return
        blocks = list(range(-(-(tokens + 1) // self._layout.block_size)))
        sequence = Sequence(0, [0] * (tokens + 1), tokens, Sampling(max_tokens=1, temperature=0.0), blocks=blocks)
        assert self._memory is not None
        used = self._memory.tensor[: len(blocks) * self._layout.block_bytes // self._layout.item_bytes]
        before = used.clone()
        self.execute(Step((Chunk(sequence, 0, tokens, sample=True),)))
        self.execute(Step((Chunk(sequence, tokens, 1, sample=True),)))
        used.copy_(before)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _check_settings(settings: WorkerSettings) -> None:
    if settings.device not in ("cpu", "cuda"):
        raise UnsupportedModelError(f"device `{settings.device}` is not supported by this runner; `cpu` and `cuda` are")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedModelError("device `cuda` was asked for, but this process sees no GPU that torch can use")
    for what, dtype in (("dtype", settings.dtype), ("kv dtype", settings.kv.dtype)):
        if dtype not in DTYPES:
            raise UnsupportedModelError(f"{what} `{dtype}` is not supported; supported are {', '.join(DTYPES)}")


def _compute_dtype(arguments: NativeArguments, declared: str, device: torch.device) -> torch.dtype:
    if arguments.compute_dtype != "auto":
        return DTYPES[arguments.compute_dtype]
    dtype = DTYPES[declared]
    if device.type == "cpu" and dtype.itemsize == 2 and not _computes_natively(dtype):
        log.info("this processor has no %s instructions: computing in float32", declared)
        return torch.float32
    return dtype


def _computes_natively(dtype: torch.dtype) -> bool:
    """Whether oneDNN has kernels for a 16-bit type on this processor; emulation is 3 to 8 times slower than float32."""
    if not torch.backends.mkldnn.is_available():
        return False
    ops = torch.ops.mkldnn
    native = ops._is_mkldnn_bf16_supported if dtype is torch.bfloat16 else ops._is_mkldnn_fp16_supported  # noqa: SLF001
    return bool(native())


def _linear_maker(dtype: torch.dtype, device: torch.device) -> MakeLinear:
    if device.type != "cpu":
        return PlainLinear
    if packing_available() and (dtype is torch.float32 or _computes_natively(dtype)):
        return PackedLinear
    log.info("weights are not packed: torch has no oneDNN kernels for %s here", dtype)
    return PlainLinear


def _set_threads(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)
    if torch.get_num_threads() > 1 and os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE":
        log.warning("OMP_WAIT_POLICY is not PASSIVE: threads spin at barriers, ten times slower on a busy machine")


def _layout(config: ModelConfig, settings: WorkerSettings) -> KvLayout:
    kv = settings.kv
    item_bytes = DTYPES[kv.dtype].itemsize
    return KvLayout(config.layers, config.kv_heads, config.head_dim, kv.block_size, kv.dtype, item_bytes)
