"""Texts from templates and data: words quoted for the shell, strings that no YAML reader takes for something else."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from dynamoc.compiler.diagnostics import PLAIN_TEXT
from dynamoc.compiler.scalars import WrittenFloat, WrittenInt

TEMPLATES = Path(__file__).parent.parent / "templates"


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def render(template: str, **values: Any) -> str:
    """A template of `templates/`; a name it uses and is not given is our bug."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # shell and Markdown, where words are quoted by the filter `sh`
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="{##",  # `{#` is bash's
        comment_end_string="##}",
    )
    environment.filters["sh"] = lambda word: quote(str(word))
    environment.filters["path"] = quote_path
    return environment.get_template(template).render(values)


def quote_path(path: str) -> str:
    """A path for the shell, which puts the user's home in the place of a leading `~/`."""
    return f'"$HOME"/{quote(path[2:])}' if path.startswith("~/") else quote(path)


def quote(word: str) -> str:
    """A word for bash, on one line whatever it holds."""
    if _CONTROL.search(word) is None:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{_CONTROL.sub(lambda found: f'{chr(92)}{ord(found[0]):03o}', escaped)}'"


_BASE: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_BASE):  # type: ignore[misc]  # libyaml's where it is there: the same text in a fifth of the time
    """Quotes every string that is not a plain word: YAML 1.1 and 1.2 disagree about too many of them."""


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    style = None if PLAIN_TEXT.fullmatch(text) else '"'
    node: yaml.Node = dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)
    return node


def _number(dumper: _Dumper, number: WrittenInt | WrittenFloat) -> yaml.Node:
    """As it was written, with no tag, whatever YAML 1.1 takes it for."""
    tag = dumper.resolve(yaml.ScalarNode, number.written, (True, False))
    node: yaml.Node = dumper.represent_scalar(tag, number.written)
    return node


_Dumper.add_representer(str, _text)
_Dumper.add_representer(WrittenInt, _number)
_Dumper.add_representer(WrittenFloat, _number)
_Dumper.ignore_aliases = lambda self, data: True  # noqa: ARG005


def to_yaml(data: Any) -> str:
    """Block style, keys in the given order."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
    return text
