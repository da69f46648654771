"""Two campaigns against each other, in the words of a report."""

from __future__ import annotations

import msgspec

from dynamoc.launcher.analysis.intervals import Mean
from dynamoc.launcher.analysis.regression import Change, Judgement, compare
from dynamoc.launcher.report.point_view import name_of
from dynamoc.launcher.report.points import Results

ORDER = (Judgement.WORSE, Judgement.UNCERTAIN, Judgement.BETTER)


class ChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """One figure that is no longer what it was."""

    point: str
    figure: str
    old: str
    new: str
    ratio: str
    judgement: str


class ComparisonView(msgspec.Struct, frozen=True, kw_only=True):
    """What changed beyond the tolerance, the worst first."""

    title: str
    summary: str
    changes: tuple[ChangeView, ...]
    worse: int


def compare_results(old: Results, new: Results) -> ComparisonView:
    """Point by point; points are the same where their content is."""
    comparison = compare(old.rows, new.rows)
    names = {point.id: name_of(point.values) or point.id for point in new.measured}
    counts = {judgement: sum(c.judgement is judgement for c in comparison.changes) for judgement in Judgement}
    both = len({change.point for change in comparison.changes})
    said = ", ".join(f"{count} {judgement}" for judgement, count in counts.items())
    only = f"{len(comparison.only_old)} points are only there, {len(comparison.only_new)} only here"
    changed = sorted(
        (change for change in comparison.changes if change.judgement is not Judgement.SAME),
        key=lambda change: ORDER.index(change.judgement),
    )
    return ComparisonView(
        title=old.title,
        summary=f"{both} points are in both; of their figures {said}; {only}.",
        changes=tuple(_view(change, names[change.point]) for change in changed),
        worse=counts[Judgement.WORSE],
    )


def _view(change: Change, name: str) -> ChangeView:
    return ChangeView(
        point=name,
        figure=change.figure,
        old=_mean(change.old),
        new=_mean(change.new),
        ratio=f"{change.ratio:.3g}",
        judgement=change.judgement,
    )


def _mean(mean: Mean) -> str:
    return f"{mean.value:.4g}" + (f" ± {mean.half_width:.2g}" if mean.half_width is not None else "")
