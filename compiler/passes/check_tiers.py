"""Tiers are where they can be, and each is worth having below the one above it."""

from __future__ import annotations

import re
from itertools import pairwise

from dynamoc.compiler.diagnostics import Drop, Path, Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component, Graph, WorkerOptions
from dynamoc.compiler.memory import ITEM_BYTES, kv_block_bytes, spell_bytes
from dynamoc.compiler.resolved import exact_size
from dynamoc.compiler.tiers import sizes_of, without_tier
from dynamoc.runtime.manifest import CacheSettings, Role

BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
URL = re.compile(rf"s3://{BUCKET}(/[^\s?#]*)?|file:///[^\s?#]+")
SCHEMES = {"s3a://": "s3://", "s3n://": "s3://", "S3://": "s3://", "file://localhost/": "file:///"}
SIZE_FIELDS = {"host": ("host",), "disk": ("disk", "size"), "object": ("object", "size")}


def check_tiers(graph: Graph, report: Reporter) -> Graph:
    """D344 a place that is none, D346 a tier smaller than a block; as a warning D345 one smaller than what is above."""
    for cache in graph.of_role(Role.CACHE):
        if cache.cache is not None:
            _check_places(cache, cache.cache, report)
            _check_order(cache, cache.cache, report)
    for component in graph.components:
        if component.worker is not None and component.worker.cache is not None:
            _check_blocks(graph, component, component.worker, report)
    return graph


def _check_places(cache: Component, settings: CacheSettings, report: Reporter) -> None:
    at: Path = (*cache.at, "tiers")
    if settings.disk is not None and not settings.disk.path.startswith(("/", "~/")):
        path = (*at, "disk", "path")
        message = f"the disk tier of `{cache.name}` has no absolute path"
        inside = settings.disk.path.lstrip("./")
        remedies = [Remedy((Put(path, f"/{inside}"),))] if inside else []
        report.error("D344", message, (path, "workers start in folders of their own"), remedies=remedies)
    if settings.object is not None and not URL.fullmatch(settings.object.url):
        path, near = (*at, "object", "url"), _near(settings.object.url)
        report.error(
            "D344",
            f"the object tier of `{cache.name}` has no usable URL",
            (path, "expected `s3://bucket/prefix` or `file:///folder`"),
            notes=["a bucket has 3 to 63 lower-case letters, digits, dots and dashes"],
            remedies=[] if near is None else [Remedy((Put(path, near),))],
        )


def _near(url: str) -> str | None:
    """What was probably meant."""
    wrong = next((scheme for scheme in SCHEMES if url.startswith(scheme)), "")
    near = f"file://{url}" if url.startswith("/") else SCHEMES.get(wrong, "") + url.removeprefix(wrong)
    return near if URL.fullmatch(near) else None


def _check_order(cache: Component, settings: CacheSettings, report: Reporter) -> None:
    """What is written through to a smaller tier pushes out of it what the larger one still holds."""
    bounded = [(tier, size) for tier, size in sizes_of(settings).items() if size is not None]
    for (upper, above), (lower, size) in pairwise(bounded):
        if size < above:
            path = (*cache.at, "tiers", *SIZE_FIELDS[lower])
            report.warning(
                "D345",
                f"the {lower} tier of `{cache.name}` is smaller than its {upper} tier",
                (path, spell_bytes(size)),
                ((*cache.at, "tiers", *SIZE_FIELDS[upper]), spell_bytes(above)),
                notes=[f"{spell_bytes(size)} < {spell_bytes(above)}: it holds little that is not above it as well"],
                remedies=[Remedy((Put(path, exact_size(above)),)), Remedy((Drop((*cache.at, "tiers", lower)),))],
            )


def _check_pool(
    cache: Component, component: Component, options: WorkerOptions, block: int, blocks: int, report: Reporter
) -> None:
    """The first tier below the device should hold more than the device does."""
    assert options.cache is not None
    pool = blocks * block
    tier, size = next(iter(sizes_of(options.cache).items()), ("", None))
    if size is not None and block <= size < pool:
        path = (*cache.at, "tiers", *SIZE_FIELDS[tier])
        report.warning(
            "D345",
            f"the {tier} tier of `{cache.name}` is smaller than the KV pool of `{component.name}`",
            (path, spell_bytes(size)),
            notes=[f"{spell_bytes(size)} < {spell_bytes(pool)}: it holds little that is not in the pool as well"],
            remedies=[Remedy((Put(path, exact_size(pool)),))],
        )


def _check_blocks(graph: Graph, component: Component, options: WorkerOptions, report: Reporter) -> None:
    """Of engines that keep tiers and whose blocks we know; what leaves the device does so in whole blocks."""
    geometry, cache = graph.model.geometry, graph.cache_of(component.name)
    engine = dialect(options.engine).capabilities
    known = engine.tiers and not engine.external and options.kv_dtype in ITEM_BYTES
    if geometry is None or not known or options.cache is None or cache is None:
        return
    block = kv_block_bytes(geometry, options)
    _check_pool(cache, component, options, block, dialect(options.engine).pool_blocks(geometry, options) or 0, report)
    for tier, size in sizes_of(options.cache).items():
        if size is not None and size < block:
            path = (*cache.at, "tiers", *SIZE_FIELDS[tier])
            report.error(
                "D346",
                f"the {tier} tier of `{cache.name}` does not hold one block of `{component.name}`",
                (path, spell_bytes(size)),
                notes=[f"{options.block_size} tokens of KV are {spell_bytes(block)} > {spell_bytes(size)}"],
                remedies=without_tier(graph, component, tier),
            )
