"""An engine that says what it was told: the smallest one, and the oracle of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from dynamoc.runtime.engines.arguments import read_arguments
from dynamoc.runtime.engines.native.arriving import Arriving
from dynamoc.runtime.engines.native.progress import StepProgress
from dynamoc.runtime.engines.native.sequence import Sampled, Sequence, Step
from dynamoc.runtime.engines.paged import PagedRunner, certain
from dynamoc.runtime.manifest import WorkerSettings


class EchoArguments(msgspec.Struct, frozen=True, kw_only=True):
    """`eos_token_id` follows the last prompt token."""

    eos_token_id: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0


class EchoRunner(PagedRunner):
    """Output token `i` is prompt token `i`; after the last one comes the end."""

    def __init__(self, settings: WorkerSettings, model_folder: Path) -> None:
        del model_folder  # there are no weights
        super().__init__(settings.kv)
        self._eos_token_id = read_arguments("echo", settings.args, EchoArguments).eos_token_id
        self.eos_token_ids = frozenset([self._eos_token_id])

    def execute(
        self, step: Step, progress: StepProgress | None = None, arriving: Arriving | None = None
    ) -> list[Sampled]:
        """Check and write the pages, and repeat the prompt; PageError for a bad page."""
        del progress, arriving  # pages have one layer: they are told, and arrive, whole
        self.read_and_write(step)
        return [self._echo(chunk.sequence) for chunk in step.chunks if chunk.sample]

    def _echo(self, sequence: Sequence) -> Sampled:
        prompt, index = sequence.prompt_tokens - sequence.generated, sequence.output_index
        token = sequence.tokens[index] if index < prompt else self._eos_token_id
        return certain(token, sequence.sampling.logprobs)
