"""One service of a DynamoGraphDeployment: role, pods, GPUs, image, variables and flags, of either version."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

import msgspec

from dynamoc.compiler.importers.command_line import CommandLine, read_command
from dynamoc.compiler.importers.documents import read_documents
from dynamoc.compiler.importers.recipe import Fields, Path, RecipeError, can_be_set, spell, text_of

TYPES = {"frontend": "frontend", "prefill": "prefill", "decode": "decode", "worker": "aggregated"}
TYPE_KEYS = ("subComponentType", "componentType", "type")
MAIN = "main"
FRONTEND = "frontend"
GPU_KEYS = ("gpu", "nvidia.com/gpu")
CONFIG_FLAGS = ("extra-engine-args", "extra_llm_api_options", "config", "extra-llm-api-options")
"""Flags that name a file with further options of the engine."""
SELECTORS = ("nodeSelector", "nodeAffinity")
DISAGGREGATED = {"is-prefill-worker": "prefill", "is-decode-worker": "decode"}


class Service(msgspec.Struct, frozen=True):
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
    args: Mapping[str, Any] = {}
    env: Mapping[str, str] = {}


OptionFiles = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Files with options of an engine, by file name and then by the ConfigMap they are in."""


def engine_files(documents: list[Any]) -> OptionFiles:
    """Those in the ConfigMaps of a text."""
    files: dict[str, dict[str, Mapping[str, Any]]] = {}
    for document in documents:
        if not isinstance(document, dict) or document.get("kind") != "ConfigMap":
            continue
        data, metadata = document.get("data"), document.get("metadata")
        owner = text_of(metadata.get("name", "")) if isinstance(metadata, dict) else ""
        for name, text in data.items() if isinstance(data, dict) else ():
            options = _options(text)
            if options is not None:
                files.setdefault(name, {})[owner] = options
    return files


def _options(text: Any) -> Mapping[str, Any] | None:
    """The one mapping that a text is; None of a script or another text: the flag that names it is kept."""
    try:
        inner = read_documents(text) if isinstance(text, str) else []
    except RecipeError:
        return None
    return inner[0] if len(inner) == 1 and isinstance(inner[0], dict) else None


def services_of(fields: Fields, files: OptionFiles) -> list[Service]:
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
    """Frontends and workers, by type or by what they start; a planner and the like stay unmapped as a whole."""
    kinds = [text_of(kind) for key in TYPE_KEYS if (kind := fields.get(*at, key)) is not None]
    return all(kind in TYPES for kind in kinds) or _command(fields, _container(fields, at), {}).engine is not None


def _decode(service: Service) -> Service:
    return msgspec.structs.replace(service, role="decode")


def _service(fields: Fields, name: str, at: Path, files: OptionFiles) -> Service:
    container = _container(fields, at)
    fields.ignore("a worker is one container", *container, "name")
    env = _env(fields, at, container)
    command = _command(fields, container, env)
    for key in ("command", "args"):
        fields.take(*container, key)
    if command.rest and command.engine is not None:
        fields.notes.append(f"`{name}` is started with words that are no flags: {' '.join(command.rest)[:200]}")
    elif command.rest:
        fields.notes.append(f"`{name}` starts nothing that is known: {' '.join(command.rest)[:200]}")
    args = _with_files(command, files, _texts(fields.get(*at)))
    role = _role(fields, at, command.engine, args)
    fields.ignore("a namespace is made for every run", *at, "dynamoNamespace")
    return Service(
        name,
        role,
        replicas=_or(fields.take_count(*at, "replicas"), 1),
        nodes=_or(fields.take_count(*at, "multinode", "nodeCount"), 1),
        gpus=_gpus(fields, at, container),
        image=fields.take_text(*container, "image") or None,
        engine=command.engine if command.engine != FRONTEND else None,
        entrypoint=command.entrypoint,
        node_labels=_labels(fields.get(*at)),
        args=args,
        env=env,
    )


def _command(fields: Fields, container: Path, env: Mapping[str, str]) -> CommandLine:
    words = [text_of(word) for key in ("command", "args") for word in _list(fields.get(*container, key), container)]
    return read_command(words, env)


def _with_files(command: CommandLine, files: OptionFiles, texts: Iterator[str]) -> dict[str, Any]:
    """The flags, and the options in files that flags name: written by the script, or of a ConfigMap that it mounts."""
    args = dict(command.args)
    mounted = set(texts) if any(len(owners) > 1 for owners in files.values()) else set()
    for flag in CONFIG_FLAGS:
        path = text_of(args.get(flag, ""))
        owners = files.get(path.rpartition("/")[2], {})
        named = [options for owner, options in owners.items() if len(owners) == 1 or owner in mounted]
        options = _options(command.files[path]) if path in command.files else named[0] if named else None
        if options is not None:
            del args[flag]
            args |= options
    return args


def _or(count: int | None, default: int) -> int:
    return default if count is None else count


def _container(fields: Fields, at: Path) -> Path:
    """The container with the engine: the main one, unless another one beside it starts an engine and it does not."""
    pods = [(*at, "podTemplate", "spec", "containers"), (*at, "extraPodSpec", "containers")]
    listed = [(*pod, index) for pod in pods for index, _ in enumerate(_list(fields.get(*pod), pod))]
    main = [path for path in listed if fields.get(*path, "name") == MAIN]
    candidates = main or ([] if fields.get(*pods[0]) else [(*at, "extraPodSpec", "mainContainer")])
    candidates += [path for path in listed if path not in main]
    return next((path for path in candidates if _command(fields, path, {}).engine is not None), candidates[0])


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


def _role(fields: Fields, at: Path, engine: str | None, args: Mapping[str, Any]) -> str:
    """By type, else by what is started and its flags; a worker that is neither does both phases."""
    kinds = [text_of(kind) for key in TYPE_KEYS if (kind := fields.take(*at, key)) is not None]
    for kind in kinds:
        if kind not in TYPES:
            fields.notes.append(f"`{spell(at)}` is of the type `{kind}`, which we do not know; what it starts decides")
    named = [TYPES[kind] for kind in kinds if TYPES.get(kind, "aggregated") != "aggregated"]
    if named or engine == FRONTEND:
        return named[0] if named else FRONTEND
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
    return " ".join(_texts(value, SELECTORS)).lower()


def _texts(value: Any, below: Container[str] | None = None) -> Iterator[str]:
    """Every text of a value; with `below`, of what stands below one of these keys."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _texts(entry, None if below is not None and key in below else below)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry, below)
    elif below is None and value is not None:
        yield text_of(value)
