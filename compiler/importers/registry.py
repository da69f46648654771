"""Every kind of recipe that can be imported, and which kind a text is."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

from dynamoc.compiler.importers.documents import read_documents
from dynamoc.compiler.importers.foreign import what_it_is
from dynamoc.compiler.importers.recipe import Imported, RecipeError

IMPORTERS: Mapping[str, str] = {
    "a Dynamo DynamoGraphDeployment": "dynamoc.compiler.importers.dynamo_graph",
    "a disaggregated TensorRT-LLM configuration": "dynamoc.compiler.importers.trtllm",
    "a TensorRT-LLM benchmark configuration": "dynamoc.compiler.importers.trtllm_benchmark",
    "an InferenceX matrix": "dynamoc.compiler.importers.inferencex",
    "an aiconfigurator generator configuration": "dynamoc.compiler.importers.aiconfigurator",
    "an srt-slurm recipe": "dynamoc.compiler.importers.srt_slurm",
}
"""Modules by what they read, the most particular first."""


class Importer(Protocol):
    """One kind of recipe; the implementers are modules."""

    def recognises(self, documents: list[Any]) -> bool:
        """Whether the documents are of this kind; never fails."""
        ...

    def read(self, documents: list[Any]) -> Iterator[Imported]:
        """Every point, in the order of the text; RecipeError says what is wrong with one."""
        ...


def read_recipe(text: str) -> Iterator[Imported]:
    """Every point of a recipe of any kind; RecipeError if it is of none or cannot be read."""
    documents = read_documents(text)
    for module in IMPORTERS.values():
        importer = cast("Importer", importlib.import_module(module))
        if documents and importer.recognises(documents):
            return importer.read(documents)
    raise RecipeError(what_it_is(documents) or f"this is none of {', '.join(IMPORTERS)}")
