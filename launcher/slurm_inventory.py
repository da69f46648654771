"""What Slurm says of its nodes: the texts of `scontrol show node` and `sinfo`, or the JSON of the former."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dynamoc.compiler.gpus import find_gpu
from dynamoc.launcher.discovery import DiscoveryError, Findings, Machine, Queue

NODE_WORDS = ("scontrol", "show", "node", "--oneliner")
QUEUE_WORDS = ("sinfo", "--noheader", "--format=%R|%l|%s")
"""Partition, longest time, sizes of a job."""
UNUSABLE = frozenset({"DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "FUTURE", "NOT_RESPONDING", "UNKNOWN"})
MIB = 2**20
_FIELD = re.compile(r"(?:^|\s)([A-Z][A-Za-z_:]*)=(\S*)")
_GRES = re.compile(r"gpu(?::(?P<kind>[^:,(=]+))?:(?P<count>[0-9]+)")
_CLOCK = re.compile(r"(?:[0-9]+-)?[0-9]+:[0-9]{2}:[0-9]{2}")
_MINUTES = re.compile(r"([0-9]+):([0-9]{2})")


def read_slurm(nodes: str, queues: str, cluster: str = "slurm") -> Findings:
    """Everything Slurm lists; DiscoveryError if the text is not Slurm's."""
    records = _json_nodes(nodes) if nodes.lstrip().startswith("{") else _text_nodes(nodes)
    return findings_of(records, tuple(read_queues(queues)), cluster)


def findings_of(
    records: Iterable[Mapping[str, str]],
    queues: tuple[Queue, ...],
    cluster: str = "slurm",
    provenance: str = "scontrol show node, sinfo",
) -> Findings:
    """From one record a node, in the words of `scontrol`."""
    everything = list(records)
    away = [record["NodeName"] for record in everything if _states(record) & UNUSABLE]
    return Findings(
        name=cluster,
        machines=tuple(_machine(record) for record in everything if not _states(record) & UNUSABLE),
        provenance=provenance,
        queues=queues,
        left_out=(f"left out as down or drained: {', '.join(away)}",) if away else (),
    )


def _text_nodes(text: str) -> list[Mapping[str, str]]:
    """One record a node: a line each with `--oneliner`, blocks parted by empty lines without."""
    blocks = text.splitlines() if "\n\n" not in text.strip() else text.split("\n\n")
    records: list[Mapping[str, str]] = [dict(_FIELD.findall(block)) for block in blocks if "NodeName=" in block]
    if not records:
        raise DiscoveryError("the answer of `scontrol show node` names no node")
    return records


def _json_nodes(text: str) -> list[Mapping[str, str]]:
    """The records of `--json` in the words of the text."""
    try:
        return [_record(node) for node in json.loads(text)["nodes"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DiscoveryError(f"the answer of `scontrol show node --json` cannot be read ({error})") from error


def _record(node: Mapping[str, Any]) -> Mapping[str, str]:
    return {
        "NodeName": str(node["name"]),
        "CPUTot": str(node.get("cpus", 0)),
        "RealMemory": str(node.get("real_memory", 0)),
        "Gres": str(node.get("gres", "")),
        "State": "+".join(_words(node.get("state"))),
        "AvailableFeatures": ",".join(_words(node.get("features"))),
        "TmpDisk": str(node.get("temporary_disk", 0)),
    }


def _words(value: Any) -> list[str]:
    """A list of words, or words parted by commas."""
    if isinstance(value, list):
        return [str(word) for word in value]
    return str(value or "").split(",")


def _states(record: Mapping[str, str]) -> set[str]:
    return set(re.split(r"[^A-Z_]+", record.get("State", "").upper()))


def _machine(record: Mapping[str, str]) -> Machine:
    kind, count, gres = _gpus(record)
    return Machine(
        host=record["NodeName"],
        cpus=_number(record, "CPUEfctv") or _number(record, "CPUTot"),
        memory_bytes=_number(record, "RealMemory") * MIB,
        gpus=count,
        gpu_kind=kind,
        gres=gres,
        disk_bytes=_number(record, "TmpDisk") * MIB,
    )


def _gpus(record: Mapping[str, str]) -> tuple[str | None, int, str | None]:
    """Kind, number, and Slurm's name of them: the kind is that name, or a feature where only that names a GPU."""
    found = list(_GRES.finditer(record.get("Gres", "")))
    kinds = [match["kind"] for match in found if match["kind"]]
    features = re.split(r"[,&|]", record.get("AvailableFeatures", ""))
    kind = next((name for name in (*kinds, *features) if find_gpu(name)), kinds[0] if kinds else None)
    alike = len(found) == 1 and len(kinds) == 1
    return kind, sum(int(match["count"]) for match in found), kinds[0] if alike else None


def _number(record: Mapping[str, str], field: str) -> int:
    text = record.get(field, "")
    return int(text) if text.isdigit() else 0


def read_queues(text: str) -> Iterable[Queue]:
    """Partitions of `sinfo --format='%R|%l|%s'`, each once."""
    seen = set()
    for line in text.splitlines():
        name, _, limits = line.strip().partition("|")
        if not name or name in seen:
            continue
        seen.add(name)
        time, _, size = limits.partition("|")
        most = size.rpartition("-")[2]
        yield Queue(name, _time(time), int(most) if most.isdigit() else None)


def _time(text: str) -> str | None:
    """`4:00:00` and `1-00:00:00` as they are, `30:00` with its hours; None for no limit."""
    if _CLOCK.fullmatch(text):
        return text
    short = _MINUTES.fullmatch(text)
    return f"0:{int(short[1]):02}:{short[2]}" if short else None
