"""The errors of importers."""

from __future__ import annotations


class ImportFault(Exception):  # noqa: N818  # what is at fault is the file
    """A file is not, or not wholly, what its tool writes; the message names the file and the place."""


class UnknownFault(ImportFault):
    """A whole file, of none of the tools."""
