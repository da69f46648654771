"""What prefill and decode workers of vLLM, SGLang and TensorRT-LLM agree on, and wide expert parallelism, mutated."""

from __future__ import annotations

from collections import Counter

from contract_mutants import contract_mutants
from proving import cards

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import Severity
from dynamoc.compiler.pipeline import prove
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source

ABOUT = {"D319", "D520", "D524", "D528"}
"""Warnings that the oracle has an opinion on."""
ENOUGH = {"kv dtype": 147, "block size": 75, "transport": 150, "tp ratio": 72, "role": 36, "side-channel port": 84}


def test_every_mutant_of_the_contract_has_the_fate_it_deserves() -> None:
    """The right rule refuses what is broken and no rule refuses the rest."""
    models, wrong, counts = cards(), [], dict[str, Counter[str]]()
    for mutant in contract_mutants():
        site = read_cluster(read_source(mutant.site, "cluster.yaml"))
        found = prove(read_source(to_yaml(mutant.spec), "spec.yaml"), site, models).diagnostics
        errors = {d.code for d in found if d.severity is Severity.ERROR}
        warnings = {d.code for d in found if d.severity is Severity.WARNING} & ABOUT
        if errors != mutant.must or warnings != mutant.warns:
            fate = (sorted(errors), sorted(warnings))
            wrong.append(f"{mutant.kind} {mutant.name}: {sorted(mutant.must)} {sorted(mutant.warns)}, not {fate}")
        outcome = "refused" if mutant.must else "warned" if mutant.warns else "harmless"
        counts.setdefault(mutant.kind, Counter())[outcome] += 1
    for kind, outcomes in counts.items():
        print(f"{kind:20}", dict(outcomes))

    assert wrong == []
    assert sum(counter.total() for counter in counts.values()) > 1000
    assert all(counts[kind].total() >= enough for kind, enough in ENOUGH.items())
