"""The flags of an engine, read from its source text without importing it."""

from __future__ import annotations

import ast
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dynamoc.launcher.option_models import read_models

Texts = Mapping[str, str]
"""Source files by their path inside the engine's package."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A flag as a source declares it: `type` is one of a flag table's; `negated`: it also comes as `no-<flag>`."""

    name: str
    type: str
    negated: bool = False


PLAIN = {"int": "int", "positive_int": "int", "float": "float", "bool": "bool", "str": "str"}
FILES: Mapping[str, re.Pattern[str]] = {
    "vllm": re.compile(
        r"engine/arg_utils\.py|entrypoints/openai/(cli_args|api_server)\.py|entrypoints/cli/serve\.py"
        r"|config(/\w+)*\.py|config/\w+\.py"
    ),
    "sglang": re.compile(r"srt/server_args\.py|srt/arg_groups/.*\.py"),
    "trtllm": re.compile(r"llmapi/llm_args\.py"),
}
PACKAGES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt_llm"}
FRONTENDS = ("FrontendArgs", "BaseFrontendArgs")
"""Classes of vLLM whose fields are flags of its server."""


def read_flags(engine: str, texts: Texts) -> dict[str, Seen]:
    """Every flag that the sources of an engine declare, by name."""
    found: dict[str, Seen] = {}
    for seen in READERS[engine](texts):
        earlier = found.get(seen.name)
        agreed = earlier is None or earlier.type == seen.type
        negated = seen.negated or (earlier is not None and earlier.negated)
        found[seen.name] = Seen(seen.name, seen.type if agreed else "any", negated)
    return found


def source_texts(engine: str, path: Path) -> dict[str, str]:
    """The files of an engine that declare flags: from a wheel, a source archive, a folder or one file.

    FileNotFoundError where there is none.
    """
    wanted, marker = FILES[engine], f"{PACKAGES[engine]}/"
    texts = {}
    for name, read in _members(path):
        inside = name.rpartition(marker)[2] if marker in name else name
        if wanted.fullmatch(inside) or (path.is_file() and path.suffix == ".py"):
            texts[inside] = read().decode()
    if not texts:
        raise FileNotFoundError(f"{path} has no source of {engine}'s flags")
    return texts


def _members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    if path.is_dir():
        for file in sorted(path.rglob("*.py")):
            yield file.relative_to(path.parent).as_posix(), file.read_bytes
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name, partial(archive.read, name)
    elif path.suffix == ".py":
        yield path.name, path.read_bytes
    else:
        with tarfile.open(path) as sources:
            for member in sources:
                inside = sources.extractfile(member) if member.isfile() else None
                if inside is not None:
                    yield member.name, inside.read


def _vllm(texts: Texts) -> Iterator[Seen]:
    """Calls of `add_argument`, whose types stand in the classes of its configuration."""
    annotations: dict[str, str] = {}
    for tree in _trees(texts):
        for class_ in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            for field, annotation in _fields(class_):
                annotations.setdefault(field, ast.unparse(annotation))
                if class_.name in FRONTENDS:
                    type_ = plain_type(ast.unparse(annotation))
                    yield Seen(field.replace("_", "-"), type_, type_ == "bool")
    for name, text in texts.items():
        for call in _arguments(ast.parse(text)) if not name.startswith("config") else ():
            yield from _vllm_argument(call, annotations)


def _vllm_argument(call: ast.Call, annotations: Mapping[str, str]) -> Iterator[Seen]:
    """Its own keywords win over those that `**kwargs["field"]` brings; a boolean of a class can be negated."""
    told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg}
    brought = next((keyword.value for keyword in call.keywords if keyword.arg is None), None)
    field = (
        brought.slice.value if isinstance(brought, ast.Subscript) and isinstance(brought.slice, ast.Constant) else None
    )
    for name in _names(call):
        known = annotations.get(str(field) if field else name.replace("-", "_"), "")
        type_ = plain_type(told.get("type", known))
        switch = "store_" in told.get("action", "")
        optional = "BooleanOptional" in told.get("action", "") or (brought is not None and type_ == "bool")
        if "nargs" in told:
            type_ = "any"
        yield Seen(name, "bool" if switch or optional else type_, optional and not switch)


def _sglang(texts: Texts) -> Iterator[Seen]:
    """Calls of `add_argument`, and annotated fields that such calls are made from."""
    for tree in _trees(texts):
        for call in _arguments(tree):
            told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg}
            for name in _names(call):
                yield _argument(name, told, told.get("type", "str"))
        for class_ in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            for field, annotation in _fields(class_):
                yield from _annotated(field, annotation)


def _annotated(field: str, annotation: ast.expr) -> Iterator[Seen]:
    """`field: A[type, Arg(...)]`; the first word after the type may be its help."""
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) not in ("A", "Annotated"):
        return
    type_, *more = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    told: dict[str, str] = {}
    names = [field.replace("_", "-")]
    for call in (part for part in more if isinstance(part, ast.Call)):
        keywords = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        if ast.unparse(call.func) == "Derived" or ast.unparse(keywords.get("no_cli", call.func)) == "True":
            return
        told |= {key: ast.unparse(value) for key, value in keywords.items()}
        names = [ast.literal_eval(keywords["cli_name"])] if "cli_name" in keywords else names
        names += ast.literal_eval(keywords["aliases"]) if "aliases" in keywords else []
    for name in names:
        yield _argument(name.lstrip("-"), told, ast.unparse(type_))


def _argument(name: str, told: Mapping[str, str], type_: str) -> Seen:
    action = told.get("action", "")
    if "store_true" in action or "BooleanOptional" in action:
        return Seen(name, "bool", "BooleanOptional" in action)
    parsed = any(key in told for key in ("nargs", "action", "type_parser"))
    return Seen(name, "any" if parsed else plain_type(type_))


def _trtllm(texts: Texts) -> Iterator[Seen]:
    """Fields of its options, those of their sections by dots."""
    for name, annotation in read_models(_trees(texts)):
        yield Seen(name, annotation if annotation == "section" else plain_type(annotation))


READERS: Mapping[str, Callable[[Texts], Iterable[Seen]]] = {"vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm}


def plain_type(annotation: str) -> str:
    """A table's type for an annotation; what is neither a plain type nor a choice of texts is `any`."""
    text = re.sub(r"\s*\|\s*None", "", annotation.replace("typing.", "").strip("\"' "))
    text = re.sub(r"^(?:Optional|SkipValidation)\[(.*)\]$", r"\1", text)
    if text.lower().startswith("literal["):
        return "str" if "'" in text or '"' in text else "any"
    return PLAIN.get(text.lower(), "int" if text in ("PositiveInt", "NonNegativeInt") else "any")


def _trees(texts: Texts) -> list[ast.Module]:
    return [ast.parse(text) for text in texts.values()]


def _fields(class_: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for node in class_.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation


def _arguments(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            yield node


def _names(call: ast.Call) -> list[str]:
    """Long names without their dashes."""
    texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    return [text[2:] for text in texts if isinstance(text, str) and text.startswith("--")]
