"""One service of a DynamoGraphDeployment: role, pods, GPUs, image, variables and flags, of either version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dynamoc.compiler.importers.command_line import read_command
from dynamoc.compiler.importers.documents import read_documents
from dynamoc.compiler.importers.recipe import Fields, Key, Path, RecipeError, can_be_set, spell, text_of

TYPES = {"frontend": "frontend", "prefill": "prefill", "decode": "decode", "worker": "aggregated"}
TYPE_KEYS = ("subComponentType", "componentType", "type")
MAIN = "main"
GPU_KEYS = ("gpu", "nvidia.com/gpu")
CONFIG_FLAGS = ("extra-engine-args", "extra_llm_api_options", "config", "extra-llm-api-options")
"""Flags that name a file with further options of the engine."""
DISAGGREGATED = {"is-prefill-worker": "prefill", "is-decode-worker": "decode"}


@dataclass(frozen=True, slots=True)
class Service:
    """What is said of a component. `gpus` are those of one pod, `nodes` its pods in one worker."""

    name: str
    role: str
    replicas: int
    nodes: int
    gpus: int
    image: str | None
    engine: str | None
    entrypoint: str | None
    node_labels: str
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


def engine_files(documents: list[Any]) -> dict[str, Mapping[str, Any]]:
    """Files with options of an engine in the ConfigMaps of a text, by file name."""
    files: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        data = document.get("data") if isinstance(document, dict) and document.get("kind") == "ConfigMap" else None
        for name, text in data.items() if isinstance(data, dict) else ():
            try:
                inner = read_documents(text) if isinstance(text, str) else []
            except RecipeError:  # a script or another text that is no options file: the flag that names it is kept
                continue
            if len(inner) == 1 and isinstance(inner[0], dict):
                files[name] = inner[0]
    return files


def services_of(fields: Fields, files: Mapping[str, Mapping[str, Any]]) -> list[Service]:
    """Every component of either version, with decode inferred where only prefill is named."""
    named = fields.get("spec", "services")
    listed = fields.get("spec", "components")
    places: list[tuple[str, Path]] = [
        *((name, ("spec", "services", name)) for name in (named if isinstance(named, dict) else ())),
        *((f"component-{n}", ("spec", "components", n)) for n in range(len(listed) if isinstance(listed, list) else 0)),
    ]
    serving = [place for place in places if _serves(fields, place[1])]
    found = [_service(fields, fields.take_text(*at, "name") or name, at, files) for name, at in serving]
    prefills = any(service.role == "prefill" for service in found)
    return [_decode(service) if prefills and service.role == "aggregated" else service for service in found]


def _serves(fields: Fields, at: Path) -> bool:
    """Frontends and workers; a planner and the like stay unmapped as a whole."""
    kinds = [fields.get(*at, key) for key in TYPE_KEYS]
    return all(kind is None or text_of(kind) in TYPES for kind in kinds)


def _decode(service: Service) -> Service:
    return Service(**{**{name: getattr(service, name) for name in service.__slots__}, "role": "decode"})


def _service(fields: Fields, name: str, at: Path, files: Mapping[str, Mapping[str, Any]]) -> Service:
    container = _container(fields, at)
    env = _env(fields, at, container)
    words = [text_of(word) for key in ("command", "args") for word in _list(fields.take(*container, key), container)]
    command = read_command(words, env)
    args = dict(command.args)
    for flag in CONFIG_FLAGS:
        file = files.get(text_of(args.get(flag, "")).rpartition("/")[2])
        if file is not None:
            del args[flag]
            args |= file
    role = _role(fields, at, args)
    if command.rest:
        fields.notes.append(f"`{name}` is started with words that are no flags: {' '.join(command.rest)[:200]}")
    if command.engine is None and words:
        fields.notes.append(f"`{name}` starts nothing that is known: {' '.join(words)[:200]}")
    fields.ignore("a namespace is made for every run", *at, "dynamoNamespace")
    return Service(
        name,
        role,
        replicas=_or(fields.take_count(*at, "replicas"), 1),
        nodes=_or(fields.take_count(*at, "multinode", "nodeCount"), 1),
        gpus=_gpus(fields, at, container),
        image=fields.take_text(*container, "image"),
        engine=command.engine,
        entrypoint=command.entrypoint,
        node_labels=_labels(fields.get(*at)),
        args=args,
        env=env,
    )


def _or(count: int | None, default: int) -> int:
    return default if count is None else count


def _container(fields: Fields, at: Path) -> Path:
    """The path of the main container: by name in v1beta1, else the first one."""
    listed = fields.get(*at, "podTemplate", "spec", "containers")
    if not isinstance(listed, list):
        return (*at, "extraPodSpec", "mainContainer")
    index = next((i for i, c in enumerate(listed) if isinstance(c, dict) and c.get("name") == MAIN), 0)
    path: tuple[Key, ...] = (*at, "podTemplate", "spec", "containers", index)
    fields.ignore("a worker is one container", *path, "name")
    return path


def _env(fields: Fields, at: Path, container: Path) -> dict[str, str]:
    """Variables with a value; one that refers to a secret or a field of the pod stays unmapped."""
    env: dict[str, str] = {}
    for where in ((*at, "envs"), (*container, "env")):
        for index, variable in enumerate(_list(fields.get(*where), where)):
            variable_name, value = variable_of(variable)
            if variable_name is not None:
                fields.take(*where, index)
                env[variable_name] = value
    return env


def variable_of(entry: Any) -> tuple[str | None, str]:
    """Name and value of an entry of a list of variables; no name where it refers to something else."""
    if not isinstance(entry, dict) or entry.get("value") is None or not set(entry) <= {"name", "value"}:
        return None, ""
    name = text_of(entry.get("name", ""))
    return (name, text_of(entry["value"])) if can_be_set(name, entry["value"]) else (None, "")


def _list(value: Any, at: Path) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise RecipeError(f"`{spell(at)}` takes a list")
    return value


def _role(fields: Fields, at: Path, args: Mapping[str, Any]) -> str:
    """By type, else by the flags of the engine; a worker that is neither does both phases."""
    kinds = [fields.take(*at, key) for key in TYPE_KEYS]
    for kind in kinds:
        if kind is not None and TYPES[text_of(kind)] != "aggregated":
            return TYPES[text_of(kind)]
    for flag, role in DISAGGREGATED.items():
        if args.get(flag) is True:
            return role
    mode = text_of(args.get("disaggregation-mode", ""))
    return mode if mode in ("prefill", "decode") else "aggregated"


def _gpus(fields: Fields, at: Path, container: Path) -> int:
    """GPUs of one pod, from limits or requests, in either version."""
    found = 0
    for where in ((*at, "resources"), (*container, "resources")):
        for kind in ("limits", "requests"):
            for key in GPU_KEYS:
                found = max(found, _or(fields.take_count(*where, kind, key), 0))
    return found


def _labels(value: Any) -> str:
    """Every text of a node selector or an affinity, for the name of a GPU."""
    return " ".join(_texts(value)).lower()


def _texts(value: Any, inside: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _texts(entry, inside or key in ("nodeSelector", "nodeAffinity"))
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry, inside)
    elif inside and value is not None:
        yield text_of(value)
