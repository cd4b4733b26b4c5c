"""Rows with values of every wrong kind: a source reads them or says in one line what is wrong, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ladder_layouts import HUB_LAYOUTS, RED, Layout
from ladder_layouts_benchmarks import BENCHMARK_LAYOUTS
from ladder_layouts_files import FILE_LAYOUTS

from observe_r1 import registry
from observe_r1.errors import UserError
from observe_r1.records import Example

LAYOUTS = HUB_LAYOUTS + BENCHMARK_LAYOUTS + FILE_LAYOUTS
COLUMNS = [
    pytest.param(layout, key, id=f"{layout.name}-{layout.file}-{key}") for layout in LAYOUTS for key in layout.row
]
WRONG = [7, -1, 10**4000, 1.5, float("nan"), True, None, [], {}, b"x", "x" * 5000, "7" * 5000, "(A) " * 1250, "\0"]
WRONG += ["\ud800", [7], [None], ["a", "b"], [["a"]], {"bytes": 7}, {"path": 7}, [{"from": 1, "value": 2}] * 2]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=8) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=5,
)


def adapt(layout: Layout, row: dict[str, Any], folder: Path) -> None:
    """Read a row. Anything but an example or a `UserError` of one line fails."""
    try:
        found = registry.load("source", layout.name).adapt(row, "here row 1", folder)
    except UserError as error:
        assert str(error).startswith("here row 1") and "\n" not in str(error) and len(str(error)) < 600
    else:
        assert isinstance(found, Example)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for image in (image for layout in FILE_LAYOUTS for image in layout.images):
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes(RED)
    return folder


@pytest.mark.parametrize(("layout", "key"), COLUMNS)
def test_a_column_of_any_wrong_kind(layout: Layout, key: str, images: Path) -> None:
    for value in WRONG:
        adapt(layout, layout.row | {key: value}, images)


@settings(max_examples=300)
@given(st.sampled_from(LAYOUTS), st.data())
def test_rows_of_wrong_kinds(images: Path, layout: Layout, data: st.DataObject) -> None:
    changed = data.draw(st.lists(st.sampled_from(list(layout.row)), max_size=4))
    adapt(layout, layout.row | {key: data.draw(VALUES) for key in changed}, images)
