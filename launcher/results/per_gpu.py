"""Figures per GPU: of those allocated, which are paid for, and beside them of those that work."""

from __future__ import annotations

from dynamoc.launcher.results.row import Row


def tokens_per_s_per_gpu(row: Row) -> float | None:
    """Output tokens a second for each allocated GPU; None where there is none, or it is not known."""
    return row.output_tokens_per_s / row.gpus_allocated if row.gpus_allocated else None


def tokens_per_s_per_working_gpu(row: Row) -> float | None:
    """For each GPU that a process uses."""
    return row.output_tokens_per_s / row.gpus_working if row.gpus_working else None


def tokens_per_s_per_user(row: Row) -> float | None:
    """What one user sees once tokens come: 1 / TPOT."""
    return 1000.0 / row.tpot_ms.avg if row.tpot_ms is not None and row.tpot_ms.avg > 0 else None
