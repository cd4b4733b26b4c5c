"""JSON lists and JSON lines: the same values as `json` reads, and every fault by line and column."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observe_r1.data import json_rows
from observe_r1.data.json_rows import JsonRows
from observe_r1.errors import UserError


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[\n {"a": 1,},\n]', "line 2, column 10: broken JSON: trailing comma before '}'"),
        ("a.json", '[\n {"ä": "½,]"},\n]', "line 3, column 1: broken JSON: trailing comma before ']'"),
        ("a.json", '[{"a": [1, ]}]', "line 1, column 12: broken JSON: trailing comma before ']'"),
        ("a.json", '[{"a": 1} {"a": 2}]', "line 1, column 11: broken JSON: Expecting ',' or ']'"),
        ("a.json", '[{"a": 1}', "line 1, column 10: broken JSON: Expecting ',' or ']'"),
        ("a.json", '[{"a": 1},\n', "line 2, column 1: broken JSON: Expecting value"),
        ("a.json", '[{"ä½": 1}, {"ä": x}]', "line 1, column 19: broken JSON: Expecting value"),
        ("a.json", "[{}] {}", "line 1, column 6: broken JSON: Text after the end of the list"),
        ("a.json", "[" * 100_000, "line 1, column 2: broken JSON: "),
        ("a.json", "[1, " + "9" * 5_000 + "]", "line 1, column 5: broken JSON: "),
        ("a.jsonl", '{"a": 1,}', "line 1, column 9: broken JSON: trailing comma before '}'"),
        ("a.jsonl", '\n\n{"ä": tru}\n', "line 3, column 7: broken JSON: Expecting value"),
        ("a.jsonl", "{} {}", "line 1, column 4: broken JSON: Extra data"),
        ("a.json", '{\n"a": 1}', "line 1: a JSON object that spans several lines: write each row on one line"),
        ("a.jsonl", "hello", "line 1, column 1: broken JSON: Expecting value"),
    ],
)
def test_broken_json_is_named_by_line_and_column(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        _ = JsonRows(path)[0]
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('[{}, \n{"answer": "ü"}]'.encode("latin-1"))
    with pytest.raises(UserError, match="line 2, column 13: broken JSON: not UTF-8 text"):
        JsonRows(path)[1]


VALUES = st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.booleans(), max_size=3)


@given(
    rows=st.lists(VALUES, max_size=6),
    ascii_only=st.booleans(),
    indent=st.none() | st.integers(0, 2),
    start=st.sampled_from(["", "\ufeff", " \n", "\ufeff\r\n"]),
    end=st.sampled_from(["", "\n", "\r\n \n"]),
)
def test_lists_and_lines_read_as_json_does(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    ascii_only: bool,
    indent: int | None,
    start: str,
    end: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "generated.json"

    def dump(value: Any, indent: int | None = None) -> str:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
        return text.encode(errors="replace").decode()  # lone surrogates cannot be written

    path.write_bytes((start + dump(rows, indent) + end).encode())
    assert list(JsonRows(path)) == json.loads(dump(rows))
    separator = "\n" if end == "\n" else "\r\n\n"
    path.write_bytes((start + separator.join(map(dump, rows)) + end).encode())
    assert list(JsonRows(path)) == json.loads(dump(rows))


LISTS = st.lists(st.recursive(VALUES | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=6), max_size=6)


def offsets_or_error(path: Path, window: int) -> list[int] | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "WINDOW", window)
        try:
            return list(json_rows.list_offsets(path))
        except UserError as error:
            return str(error)


@settings(max_examples=300)
@given(
    rows=LISTS,
    indent=st.none() | st.integers(0, 40),
    window=st.integers(1, 40),
    data=st.data(),
)
def test_a_list_reads_the_same_through_any_window(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, window: int, data: st.DataObject
) -> None:
    """Whole, cut off, or with one character changed: no error and no offset depends on what is read at once."""
    path = tmp_path_factory.getbasetemp() / "windows.json"
    text = json.dumps(rows, indent=indent) + data.draw(st.text(" \n", max_size=50))
    path.write_text(text)
    assert offsets_or_error(path, window) == offsets_or_error(path, 1 << 20)
    assert list(JsonRows(path)) == rows
    place = data.draw(st.integers(1, len(text)))
    sign = data.draw(st.sampled_from(["", ",", "]", "}", '"', "\\", "x", " ", "-", "1"]))
    path.write_text(text[:place] + sign + text[place + data.draw(st.integers(0, 3)) :])
    assert offsets_or_error(path, window) == offsets_or_error(path, 1 << 20)
