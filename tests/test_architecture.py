"""The architecture as executable contracts: who imports whom, how long things may be, what the tree must hold."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("compiler", "runtime", "launcher")
FILE_LINES = 400
FUNCTION_LINES = 60
NINE_TENTHS_OF_FUNCTIONS_LINES = 40


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", sources(*ROOMS), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_one_idea_in_few_lines(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    too_long = {f.name: length(f) for f in functions(tree) if length(f) > FUNCTION_LINES}

    assert text.count("\n") <= FILE_LINES
    assert not too_long
    assert ast.get_docstring(tree), "every module says what it is for"
    assert "TODO" not in text


def test_functions_are_short() -> None:
    lengths = sorted(length(f) for path in sources(*ROOMS) for f in functions(ast.parse(path.read_text())))

    assert statistics.median(lengths) <= 10
    assert lengths[int(len(lengths) * 0.9)] <= NINE_TENTHS_OF_FUNCTIONS_LINES


def test_public_names_have_docstrings() -> None:
    bare = []
    for path in sources(*ROOMS):
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_"
            if public and not ast.get_docstring(node):
                bare.append(f"{path.relative_to(ROOT)}: {node.name}")

    assert not bare


def test_the_project_names_no_machine_it_was_built_on() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout: the list of tracked files is git's")
    home = re.compile(rf"{re.escape(str(ROOT))}/")
    leaks = [
        name for name in tracked if (ROOT / name).is_file() and home.search((ROOT / name).read_text(errors="replace"))
    ]

    assert not leaks


def test_every_marker_of_a_placeholder_is_gone() -> None:
    words = re.compile(r"\b(FIXME|XXX|NotImplementedError)\b")
    found = [str(p.relative_to(ROOT)) for p in sources(*ROOMS) if words.search(p.read_text())]

    assert not found
