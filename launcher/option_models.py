"""Fields of option classes by their dotted names, as far as the classes are in the same source."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping

ROOTS = ("TorchLlmArgs", "TrtLlmArgs")
"""Classes whose fields are options of TensorRT-LLM."""
DEPTH = 4
SECTION = "section"


def read_models(trees: Iterable[ast.Module]) -> Iterator[tuple[str, str]]:
    """Name and annotation of every option; a section's is `section`, and its fields follow it."""
    classes: dict[str, ast.ClassDef] = {}
    aliases: dict[str, ast.expr] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = node
        for statement in tree.body:
            target = statement.target if isinstance(statement, ast.AnnAssign) else None
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                aliases[statement.targets[0].id] = statement.value
            elif isinstance(statement, ast.AnnAssign) and isinstance(target, ast.Name) and statement.value is not None:
                aliases[target.id] = statement.value
    for root in ROOTS:
        if root in classes:
            yield from _options(root, "", classes, aliases, 0)


def _options(
    name: str, prefix: str, classes: Mapping[str, ast.ClassDef], aliases: Mapping[str, ast.expr], depth: int
) -> Iterator[tuple[str, str]]:
    for field, annotation in _fields(name, classes):
        inner = sorted(_named(annotation, aliases) & {known for known in classes if _is_model(known, classes)})
        yield f"{prefix}{field}", SECTION if inner else ast.unparse(annotation)
        for section in inner if depth < DEPTH else ():
            yield from _options(section, f"{prefix}{field}.", classes, aliases, depth + 1)


def _fields(name: str, classes: Mapping[str, ast.ClassDef]) -> Iterator[tuple[str, ast.expr]]:
    """Public fields of a class and of its bases; the class's own come first."""
    class_, own = classes[name], set[str]()
    for node in class_.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_field(node):
            own.add(node.target.id)
            yield node.target.id, node.annotation
    for base in class_.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from ((field, annotation) for field, annotation in _fields(base.id, classes) if field not in own)


def _is_field(node: ast.AnnAssign) -> bool:
    hidden = isinstance(node.target, ast.Name) and node.target.id.startswith("_")
    return (
        not hidden
        and not ast.unparse(node.annotation).startswith("ClassVar")
        and "model_config" not in ast.unparse(node.target)
    )


def _is_model(name: str, classes: Mapping[str, ast.ClassDef]) -> bool:
    """An enumeration is a value, not a section."""
    bases = [ast.unparse(base) for base in classes[name].bases]
    return not any("Enum" in base for base in bases) and any(True for _ in _fields(name, classes))


def _named(annotation: ast.expr, aliases: Mapping[str, ast.expr], depth: int = 0) -> set[str]:
    """Classes that an annotation names, itself or by an alias; not those inside a list or a mapping."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _named(ast.parse(annotation.value, mode="eval").body, aliases, depth)
    if isinstance(annotation, ast.Name):
        alias = aliases.get(annotation.id)
        return {annotation.id} | (_named(alias, aliases, depth + 1) if alias is not None and depth < DEPTH else set())
    if isinstance(annotation, ast.BinOp):
        return _named(annotation.left, aliases, depth) | _named(annotation.right, aliases, depth)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("Optional", "Union", "Annotated"):
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return set().union(*(_named(part, aliases, depth) for part in inner))
    return set()
