"""New inputs from old ones: bytes that are wrong anywhere, and YAML that is wrong in one place."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import yaml

Random = random.Random
Path = tuple[Any, ...]
MAX_DEPTH = 12
MAX_PATHS = 5000

TOKENS = (
    b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\t", b"\r", b"\n", b"\r\n", b"  ", b"- ",
    b": ", b"? ", b"{", b"}", b"[", b"]", b",", b"'", b'"', b"|", b">-", b"#", b"%YAML 1.1\n", b"---\n", b"...\n",
    b"&a ", b"*a", b"<<: *a", b"!!python/object:os.system ", b"!!binary ", b"~", b"null", b"yes", b".inf", b"-.nan",
    b"0x1F", b"0o17", b"1e999", b"4:00:00", b"-1", b"99999999999999999999", b" -> ", b"->", b"defaults:", b"args:",
)  # fmt: skip
"""What parsers stumble over."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 16, 64, 65535, 65536, 10**9, 10**9 + 1, 2**63, 10**30, 0.0, -0.0, 0.5, 1.5,
    1e308, float("inf"), float("nan"), "", " ", "\n", "x", "no", "010", "1e3", "4:00:00", "0 s", "1 GiB", "-1 GiB",
    "1e999 GiB", "é", "\U0001f600", "\u2028", "a" * 300, "a -> b", "->", "-> ->", "frontend -> router", [], {}, [[]],
    [None], {"a": None}, {"": ""}, [1, "a", {}], {"tp": 3}, {"x": {"y": {"z": []}}}, "vllm", "sglang", "trtllm",
    "native", "mocker", "echo", "cuda", "cpu", "fp8", "auto", "prefill", "decode", "aggregated", "shm", "nixl",
    "deepseek-ai/DeepSeek-R1", "meta-llama/Llama-3.3-70B-Instruct", "nobody/unknown", "../../etc", "/", "latest",
)  # fmt: skip
"""What rules stumble over."""

KEYS = (
    "tp-size", "tensor_parallel_size", "tensor-parallel-size", "dp", "enable-dp-attention", "gpus", "nodes",
    "nodes_per_worker", "replicas", "port", "kv_blocks", "kv_memory", "block_size", "page-size", "context_length",
    "max-model-len", "mem-fraction-static", "gpu-memory-utilization", "parallel", "args", "env", "engine", "version",
    "isl", "osl", "concurrency", "same_node", "reserve_nodes", "time_limit", "allow", "code", "reason", "transport",
    "kv_cache_config", "moe_expert_parallel_size", "speculative-config", "revision", "path", "ref", "precision", "é",
    "", "a b", "<<", "0", "host", "hosts", "count", "partitions", "gpu", "memory",
)  # fmt: skip


def mutated(seed: bytes, other: bytes, choose: Random) -> bytes:
    """A few steps away from `seed`; some of them take a piece of `other`."""
    if choose.random() < 0.6 and (changed := _structure(seed, other, choose)) is not None:
        seed = changed
        if choose.random() < 0.8:
            return seed
    for _ in range(choose.choice((1, 1, 1, 2, 4, 16))):
        seed = choose.choice(BYTES)(seed, other, choose)
    return seed


def _insert(seed: bytes, other: bytes, choose: Random) -> bytes:
    at = choose.randint(0, len(seed))
    return seed[:at] + choose.choice(TOKENS) + seed[at:]


def _overwrite(seed: bytes, other: bytes, choose: Random) -> bytes:
    start, stop = _range(seed, choose)
    return seed[:start] + choose.choice(TOKENS) + seed[stop:]


def _flip(seed: bytes, other: bytes, choose: Random) -> bytes:
    if not seed:
        return b"\x80"
    at = choose.randrange(len(seed))
    return seed[:at] + bytes([seed[at] ^ (1 << choose.randrange(8))]) + seed[at + 1 :]


def _delete(seed: bytes, other: bytes, choose: Random) -> bytes:
    start, stop = _range(seed, choose)
    return seed[:start] + seed[stop:]


def _repeat(seed: bytes, other: bytes, choose: Random) -> bytes:
    start, stop = _range(seed, choose)
    return seed[:stop] + seed[start:stop] * choose.choice((1, 2, 40)) + seed[stop:]


def _splice(seed: bytes, other: bytes, choose: Random) -> bytes:
    start, stop = _range(other, choose)
    at = choose.randint(0, len(seed))
    return seed[:at] + other[start:stop] + seed[at:]


def _move_line(seed: bytes, other: bytes, choose: Random) -> bytes:
    lines = seed.splitlines(keepends=True)
    if lines:
        line = lines.pop(choose.randrange(len(lines)))
        lines.insert(choose.randint(0, len(lines)), choose.choice((b"", b" ", b"  ", b"\t")) + line)
    return b"".join(lines)


BYTES: Sequence[Callable[[bytes, bytes, Random], bytes]] = (
    _insert, _overwrite, _flip, _delete, _repeat, _splice, _move_line,
)  # fmt: skip


def _some_path(data: Any, choose: Random) -> Path:
    return choose.choice(list(islice(paths(data), MAX_PATHS)))


def _range(text: bytes, choose: Random) -> tuple[int, int]:
    start = choose.randint(0, len(text))
    return start, min(len(text), start + choose.choice((1, 1, 2, 8, 64)))


def _structure(seed: bytes, other: bytes, choose: Random) -> bytes | None:
    """Change the data and write it again; None where there is none to change."""
    data, donor = _loaded(seed), _loaded(other)
    if not isinstance(data, dict) or not data:
        return None
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        if not data:
            break
        path = _some_path(data, choose)
        parent = at(data, path[:-1])
        _change(parent, path[-1], donor, choose)
    flow = choose.choice((None, True, False))
    text = yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True, sort_keys=choose.random() < 0.2)
    return text.encode("utf-8", "surrogatepass")


def _change(parent: Any, key: Any, donor: Any, choose: Random) -> None:
    kind = choose.choice(("value", "value", "value", "drop", "rename", "add", "graft", "nudge"))
    if kind == "drop":
        del parent[key]
    elif kind == "graft" and isinstance(donor, dict) and donor:
        parent[key] = at(donor, _some_path(donor, choose))
    elif kind == "nudge" and isinstance(parent[key], int | float):
        parent[key] = choose.choice((parent[key] + 1, parent[key] - 1, parent[key] * 2, -parent[key], parent[key] * 10))
    elif kind in ("rename", "add") and isinstance(parent, dict):
        value = parent.pop(key) if kind == "rename" else choose.choice(VALUES)
        parent[choose.choice(KEYS)] = value
    else:
        parent[key] = choose.choice(VALUES)


def paths(data: Any, path: Path = ()) -> Iterator[Path]:
    """Where every value of some data is, itself left out; not for ever where data holds itself."""
    if len(path) == MAX_DEPTH:
        return
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from paths(value, (*path, key))


def at(data: Any, path: Path) -> Any:
    """What stands at a path."""
    for key in path:
        data = data[key]
    return data


def _loaded(text: bytes) -> Any:
    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError, KeyError, OverflowError):
        return None  # the reader of specs is told about it, not we
