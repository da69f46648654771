"""Source -> campaign: the shape of the file, and the spec that is its base."""

from __future__ import annotations

from functools import partial

from dynamoc.compiler.campaign.spec import CampaignSpec, part_at
from dynamoc.compiler.diagnostics import Reporter
from dynamoc.compiler.edits import edit
from dynamoc.compiler.shape import read_shape
from dynamoc.compiler.source import Source

BASE = ("base",)


def campaign_reporter(source: Source) -> Reporter:
    """A reporter that marks and edits the text of a campaign."""
    return Reporter(source.locate, partial(edit, source))


def read_campaign(source: Source, report: Reporter) -> CampaignSpec:
    """The campaign of a source; CompileError if its shape is wrong."""
    spec = read_shape(CampaignSpec, part_at, source, report)
    report.stop_on_errors()
    assert spec is not None
    return spec


def base_within(source: Source) -> Source:
    """The base of a campaign that holds it itself, as a source of its own, at the same places of the same text."""
    places = {path[1:]: place for path, place in source.places.items() if path[:1] == BASE}
    return Source(source.name, source.text, source.data["base"], places)
