from __future__ import annotations

from typing import Any

import pytest

from dynamoc.compiler.importers.documents import read_documents
from dynamoc.compiler.importers.points import points
from dynamoc.compiler.importers.recipe import RecipeError


def expanded(text: str) -> dict[str, dict[str, Any]]:
    return dict(points(read_documents(text)[0]))


def test_a_recipe_without_a_grid_is_one_point() -> None:
    assert expanded("{name: a, x: 1}") == {"": {"name": "a", "x": 1}}


def test_a_sweep_is_a_product_and_keeps_types() -> None:
    found = expanded("{name: a, tp: '{tp}', both: 'x{tp}-{c}', list: ['{c}'], sweep: {tp: [1, 2], c: [8, true]}}")

    assert list(found) == ["tp=1, c=8", "tp=1, c=True", "tp=2, c=8", "tp=2, c=True"]
    assert found["tp=2, c=8"] == {"name": "a_tp2_c8", "tp": 2, "both": "x2-8", "list": [8]}
    assert found["tp=1, c=True"]["list"] == [True]


def test_a_sweep_with_a_mode_zips() -> None:
    found = expanded("{name: a, v: '{x}{y}', sweep: {mode: zip, parameters: {x: [1, 2], y: [3, 4]}}}")

    assert [point["v"] for point in found.values()] == ["13", "24"]


def test_an_override_merges_mappings_replaces_the_rest_and_null_removes() -> None:
    found = expanded(
        "{base: {name: a, m: {x: 1, y: 2, l: [1, 2]}, gone: 1}, override_b: {m: {y: 3, l: [9]}, gone: null}}"
    )

    assert found == {"override_b": {"name": "a_b", "m": {"x": 1, "y": 3, "l": [9]}}}


def test_a_null_of_the_base_survives() -> None:
    assert expanded("{base: {name: a, m: {x: null}}, override_b: {y: 1}}")["override_b"]["m"] == {"x": None}


def test_a_zip_walks_its_lists_together_and_broadcasts() -> None:
    text = "{base: {name: a, keep: 0}, zip_override_z: {n: [1, 2], one: [7], same: 5, list: [[4, 8], [16]]}}"
    found = expanded(text)

    assert found["zip_override_z[0]"] == {"name": "a_z_0", "keep": 0, "n": 1, "one": 7, "same": 5, "list": [4, 8]}
    assert found["zip_override_z[1]"] == {"name": "a_z_1", "keep": 0, "n": 2, "one": 7, "same": 5, "list": [16]}


def test_a_zip_names_its_points() -> None:
    assert [p["name"] for p in expanded("{base: {name: a}, zip_override_z: {name: [p, q]}}").values()] == ["p", "q"]


def test_the_base_alone_is_a_point_only_where_nothing_overrides_it() -> None:
    assert list(expanded("{base: {name: a}}")) == ["base"]


def test_points_share_what_no_value_changes() -> None:
    found = list(expanded("{name: a, big: {x: [1, 2, 3]}, v: '{n}', sweep: {n: [1, 2]}}").values())

    assert found[0]["big"] is found[1]["big"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{base: {name: a}, zip_override_z: {x: [1, 2], y: [1, 2, 3]}}", "different lengths: 2, 3"),
        ("{base: {name: a}, zip_override_z: {x: []}}", "different lengths: 0"),
        ("{base: {name: a}, override_z: 4}", "`override_z` takes a mapping"),
        ("{name: a, sweep: {x: 4}}", "`sweep.x` takes a list"),
        ("{name: a, sweep: [1]}", "`sweep` takes a mapping"),
        ("{name: a, sweep: {mode: zip, parameters: {x: [1], y: [1, 2]}}}", "different lengths"),
        ("{name: a, sweep: {" + ", ".join(f"v{n}: [1, 2, 3, 4]" for n in range(10)) + "}}", "more than 100000"),
    ],
)
def test_a_grid_that_makes_no_sense_is_said(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        expanded(text)
