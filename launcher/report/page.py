"""One HTML file with everything in it: it opens without a network, and no text of a file is taken for markup."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

import dynamoc
from dynamoc.compiler.campaign.limits import SINGLE, SPREADS
from dynamoc.launcher.report.columns import Cell, columns_of, table_of
from dynamoc.launcher.report.compared import ComparisonView
from dynamoc.launcher.report.points import ReportError
from dynamoc.launcher.report.view import LimitView, Unmeasured, View

TEMPLATES = Path(dynamoc.__file__).parent / "templates/report"
SCRIPTS = ("capacity.js", "charts.js", "table.js", "calculator.js", "report.js")
METRICS = tuple(f"{metric}@{statistic}" for metric in SPREADS for statistic in ("p50", "p95", "p99", "avg"))
ASKED = {"ttft_ms": 2000.0, "tpot_ms": 50.0, "isl": 1024.0, "osl": 128.0}
"""What the calculator asks for before anybody did."""
TOLD = ("frontier", "standing")
"""What a point on the frontier need not say of itself."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def to_html(view: View, comparison: ComparisonView | None = None) -> bytes:
    """The page; ReportError where plotly is not installed."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_plotly(), *((TEMPLATES / name).read_text() for name in SCRIPTS)]
    text = environment.get_template("report.html.j2").render(
        view=view,
        comparison=comparison,
        policy=_policy(scripts),
        style=Markup((TEMPLATES / "report.css").read_text()),  # noqa: S704  # our own file
        tiles=_tiles(view),
        metrics=_metrics(view.limits),
        ask=_asked(view),
        front=_front(view),
        pruned=_by_rule(view.pruned),
        data=Markup(embed(_data(view))),  # noqa: S704  # `embed` leaves nothing that ends a script
        scripts=[Markup(script) for script in scripts],  # noqa: S704  # our own files and plotly's
    )
    return text.encode()


def embed(data: Any) -> str:
    """JSON that stays data inside of a script element, whatever its texts hold."""
    text = msgspec.json.encode(data).decode()
    for sign, escape in _ESCAPES.items():
        text = text.replace(sign, escape)
    return text


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ReportError("the HTML report needs plotly: pip install 'dynamoc[report]'") from error
    script: str = get_plotlyjs()
    return script


def _policy(scripts: Sequence[str]) -> str:
    """Only these scripts run; nothing is loaded from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def _data(view: View) -> dict[str, Any]:
    """The view for the scripts. Specs are lists of line numbers: most lines of a campaign are the same."""
    lines: dict[str, int] = {}

    def numbers(spec: str | None) -> list[int] | None:
        return None if spec is None else [lines.setdefault(line, len(lines)) for line in spec.split("\n")]

    specs = [numbers(point.spec) for point in view.points]
    points = tuple(msgspec.structs.replace(point, spec=None) for point in view.points)
    shown = msgspec.structs.replace(view, points=points, failed=(), pruned=(), max_loads=())
    return {"view": shown, "table": table_of(view), "lines": list(lines), "specs": specs}


def _tiles(view: View) -> list[tuple[str, str]]:
    tiles = [
        ("points", f"{len(view.points)}"),
        *((name, f"{count}") for name, count in view.standings.items() if count),
    ]
    tiles += [("failed", f"{len(view.failed)}"), ("pruned", f"{len(view.pruned)}")]
    if view.limits:
        tiles.append(("keep the SLA", f"{sum(point.sla == 'met' for point in view.points)}"))
    return tiles + ([("GPU-hours", f"{view.gpu_hours:g}")] if view.gpu_hours else [])


def _metrics(limits: Sequence[LimitView]) -> tuple[str, ...]:
    """Those with a target first."""
    named = (f"{limit.metric}@{limit.statistic}" if limit.statistic else limit.metric for limit in limits)
    return tuple(dict.fromkeys((*(name for name in named if name in (*METRICS, *SINGLE)), *METRICS)))


def _asked(view: View) -> dict[str, str]:
    limits = {limit.metric: limit.bound for limit in view.limits if limit.statistic}
    return {name: f"{limits.get(name, value):g}" for name, value in ASKED.items()}


def _front(view: View) -> dict[str, Any]:
    """The frontier as text, in the order of its first axis."""
    members = [(index, point) for index, point in enumerate(view.points) if point.front]
    members.sort(key=lambda member: (member[1].workload, -member[1].figures["user"]))
    name, *others = [column for column in columns_of(view) if column.short and column.name not in TOLD]
    columns = [column for column in others if any(column.of(point) is not None for _, point in members)]
    rows = [
        {
            "index": index,
            "name": point.name,
            "workload": point.workload,
            "cells": [_text(column.of(point)) for column in columns],
        }
        for index, point in members
    ]
    return {"headings": [column.heading for column in (name, *columns)], "rows": rows}


def _text(cell: Cell) -> str:
    return "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _by_rule(pruned: Sequence[Unmeasured]) -> Mapping[str, list[Unmeasured]]:
    rules: dict[str, list[Unmeasured]] = {}
    for point in pruned:
        rules.setdefault(point.rule, []).append(point)
    return dict(sorted(rules.items(), key=lambda rule: -len(rule[1])))
