"""Settings that make up how many draft tokens a speculative decoder accepts: what is measured then is no model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dynamoc.runtime.manifest import Manifest, ProcessSpec

VARIABLES = re.compile(r"SGLANG_SIMULATE_ACC_LEN|TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS")
OFF = ("", "-1", "-1.0", "0")
IN_TEXT = re.compile(
    r"(synthetic_acceptance_\w+|simulate_acc_len)[\"']?\s*[:=]\s*[\"']?([\d.\[]+)"
    r"|(rejection_sample_method)[\"']?\s*[:=]\s*[\"']?(synthetic)"
)


def synthetic_acceptance(manifest: Manifest) -> tuple[str, ...]:
    """Each such setting of a plan once, in the words of its engine."""
    return tuple(dict.fromkeys(found for process in manifest.processes for found in _of(process)))


def _of(process: ProcessSpec) -> Iterator[str]:
    launch = process.launch
    variables: Mapping[str, object] = {**process.env, **(launch.env if launch else {})}
    for name, value in variables.items():
        if VARIABLES.fullmatch(name) and value not in OFF:
            yield f"{name}={value}"
    if launch is None:
        return
    for text in (*(word for word in launch.words if isinstance(word, str)), *launch.files.values()):
        for match in IN_TEXT.finditer(text):
            yield f"{match[1]}={match[2]}" if match[1] else f"{match[3]}={match[4]}"
