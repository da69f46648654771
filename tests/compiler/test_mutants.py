"""Accepted specs with one thing broken: refused by the right rule, or harmless and accepted."""

from __future__ import annotations

from collections import Counter

import pytest
from mutants import BASES, Mutant, mutants
from oracle import Opinion, opinion
from proving import cards

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import Severity
from dynamoc.compiler.pipeline import prove
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.source import read_source

ENOUGH = 500


@pytest.fixture(scope="module")
def everything() -> list[tuple[Mutant, Opinion, frozenset[str]]]:
    """Every mutant, what should become of it, and the errors it met."""
    models = cards()
    found = []
    for mutant in mutants():
        site = read_cluster(read_source(mutant.site.text(), "cluster.yaml"))
        proof = prove(read_source(to_yaml(mutant.spec), "spec.yaml"), site, models)
        errors = frozenset(d.code for d in proof.diagnostics if d.severity is Severity.ERROR)
        assert (proof.plan is None) == bool(errors)
        found.append((mutant, opinion(mutant.spec, mutant.site), errors))
    return found


@pytest.mark.parametrize("name", BASES)
def test_what_is_mutated_is_right(name: str) -> None:
    spec, site = BASES[name]
    proof = prove(read_source(to_yaml(spec), "spec.yaml"), read_cluster(read_source(site.text(), "c")), cards())

    assert [d.code for d in proof.diagnostics] == []
    assert (opinion(spec, site).must, opinion(spec, site).may) == (set(), set())


def test_no_mutant_is_refused_without_need(everything: list[tuple[Mutant, Opinion, frozenset[str]]]) -> None:
    """The worst bug of a prover."""
    false = [f"{m.name}: {sorted(errors)}" for m, o, errors in everything if errors - o.must - o.may]

    assert false == []


def test_every_broken_mutant_is_refused_by_the_right_rule(
    everything: list[tuple[Mutant, Opinion, frozenset[str]]],
) -> None:
    missed = [f"{m.name}: {sorted(o.must)}, not {sorted(e)}" for m, o, e in everything if o.must and not e]

    assert missed == []


def test_there_are_enough_of_every_kind(
    everything: list[tuple[Mutant, Opinion, frozenset[str]]], record_property: pytest.RecordProperty
) -> None:
    """Most mutants must be decided by the oracle alone: neither broken nor harmless says nothing about the rules."""
    table: dict[str, Counter[str]] = {}
    for mutant, about, errors in everything:
        outcome = "refused" if errors else "harmless" if not about.may else "close, accepted"
        table.setdefault(mutant.kind, Counter())[outcome] += 1
        table[mutant.kind].update(errors)
    for kind, counts in sorted(table.items()):
        record_property(kind, dict(counts))
        print(f"{kind:20}", ", ".join(f"{what} {count}" for what, count in sorted(counts.items(), reverse=True)))
    close = sum(1 for _, about, errors in everything if about.may and not about.must)

    assert len(everything) >= ENOUGH
    assert close <= len(everything) / 4
