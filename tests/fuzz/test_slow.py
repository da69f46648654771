"""No input of 64 KiB costs more than seconds of CPU: the slowest shapes that were found, before they were mended."""

from __future__ import annotations

import time

import pytest
from meeting import cards, meet, sites

LIMIT_S = 10.0
MAX_BYTES = 65_536
HEAD = """dynamoc: 1
name: slow
model: {{ref: meta-llama/Llama-3.3-70B-Instruct}}
defaults: {{engine: echo}}
components:
  frontend: {{role: frontend}}
  router: {{role: router}}
{components}
edges: [{edges}]
"""
WORKER = "  worker: {role: aggregated}"


def spec(components: str = WORKER, edges: str = "frontend -> router -> worker", more: str = "") -> str:
    return HEAD.format(components=components, edges=edges) + more


SLOW = {
    "unknown keys": spec(more="\n".join(f"k{number}: 1" for number in range(6000))),
    "unknown names": spec(edges=", ".join(f"frontend -> rooter{number} -> worker" for number in range(1800))),
    "names of variables": spec(
        "  worker: {role: aggregated, env: {" + ", ".join(f"{n}A: x" for n in range(5000)) + "}}"
    ),
    "a long name": spec(edges="frontend -> " + "r" * 60_000),
    "a long key": spec(more="a" * 30_000 + ": 1\n"),
    "misspelt roles": spec("\n".join(f"  w{number}: {{role: agregated, replica: x}}" for number in range(1400))),
    "a long chain": spec(edges=" -> ".join(["frontend"] + ["router"] * 5000)),
    "a large number": spec("  worker: {role: aggregated, replicas: " + "9" * 60_000 + "}"),
    "deep lists": "[" * 30_000 + "]" * 30_000,
    "deep mappings": "{a: " * 13_000 + "}" * 13_000,
    "aliases of aliases": "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 900)),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_input_is_answered_in_time(name: str) -> None:
    content = SLOW[name].encode()[:MAX_BYTES]
    site, models = sites()[0], cards()
    start = time.process_time()
    meet(content, site, models)

    assert time.process_time() - start < LIMIT_S
