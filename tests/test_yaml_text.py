"""YAML read strictly, and written so that it reads back the same."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from observe_r1.errors import UserError
from observe_r1.yaml_text import dump_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-1", -1), ("+1", 1), ("0", 0), ("1.5", 1.5), ("1.", 1.0), (".5", 0.5), ("-.5e3", -500.0),
        ("1e-6", 1e-6), ("1E+6", 1e6), (".inf", float("inf")), ("-.inf", float("-inf")), ("true", True),
        ("False", False), ("null", None), ("~", None), ("", None), ("'1'", "1"), ("010", "010"), ("-08", "-08"),
        ("1:30", "1:30"), ("0x10", "0x10"), ("0b1", "0b1"), ("1_000", "1_000"), ("yes", "yes"), ("on", "on"),
        ("No", "No"), ("2001-12-31", "2001-12-31"), ("2001-99-99", "2001-99-99"), ("=", "="), ("<<", "<<"),
    ],
)  # fmt: skip
def test_plain_words_mean_what_yaml_1_2_says(text, value):
    parsed = parse_yaml(f"key: {text}", "here")["key"]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1", "line 1, column 4: anchors and aliases .* write the value out"),
        ("a: *x", "line 1, column 4: anchors and aliases"),
        ("a: &a [*a]", "line 1, column 4: anchors and aliases"),
        ("b:\n  <<: *a", "line 2, column 7: anchors and aliases"),
        (
            "a: !!int abc",
            "line 1, column 4: the tag !!int is not supported: write the value without it, text in quotes",
        ),
        ("a: !!timestamp 2001-99-99", "the tag !!timestamp is not supported"),
        ("!!python/name:os.system", "the tag !!python/name:os.system is not supported"),
        ("a: ! b", "the tag ! is not supported"),
        ("1: 2", "line 1, column 1: this key is not text: put it in quotes"),
        ("{[a]: 2}", "line 1, column 2: this key is not text"),
        ("a: 1\na: 2", "line 2, column 1: duplicate key 'a'"),
        ("a: {'b': 1, b: 2}", "line 1, column 13: duplicate key 'b'"),
        ("[" * 100_000, "line 1, column 33: nested deeper than 32 levels"),
        ("{a: " * 1000, "nested deeper than 32 levels"),
        ("- " * 100, "nested deeper than 32 levels"),
        ("a: b: c", "line 1, column 5: broken YAML: mapping values are not allowed here"),
        ("a: 1\n  b: 2", r"broken YAML: mapping values .* here \(check the indentation .*; use spaces, not tabs\)"),
        ("a:\n  b: 1\n c: 2", r"expected <block end>, .* \(check the indentation of the line before; use spaces"),
        ("a:\n\tb: 1", r"cannot start any token \(check the indentation"),
        ("a\n--- b", "broken YAML: but found another document"),
        ('#\na: "\\UFFFFFFFF"', "line 2: broken YAML: "),
        ("%YAML " + "9" * 5000 + ".1\n--- a", "line 1: broken YAML: "),
        ("#\n\0", "line 2: broken YAML: unacceptable character #x0000"),
    ],
)
def test_what_is_not_taken_is_one_line_with_its_place(text, message):
    with pytest.raises(UserError, match=f"^here: .*{message}") as caught:
        parse_yaml(text, "here")
    assert "\n" not in str(caught.value)


def test_a_bomb_of_aliases_never_grows():
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    with pytest.raises(UserError, match="line 1, column 5: anchors"):
        parse_yaml("\n".join(lines), "here")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
WORDS = st.sampled_from(
    ["1e5", "010", "1:30", "no", "on", "~", "", "null", "2001-01-01", "<<", "=", "1_000", ".5", "&a"]
)


@given(VALUES | st.lists(WORDS))
def test_what_is_written_reads_back_the_same_for_any_reader(values):
    text = dump_yaml(values)
    assert parse_yaml(text, "here") == values
    assert yaml.safe_load(text) == values


def test_a_value_that_stands_twice_is_written_twice():
    shared = ["a", "b"]
    assert parse_yaml(dump_yaml({"one": shared, "other": shared}), "here") == {"one": shared, "other": shared}


# Files


def test_a_pipe_a_device_and_a_folder_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer for ever
    for path, kind in (
        (tmp_path / "pipe", "a pipe or a device"),
        (Path("/dev/zero"), "a pipe or a device"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(UserError, match=f"cannot read '{path}': it is {kind}; give a YAML file"):
            read_yaml(path)


def test_a_file_that_is_too_long_is_not_parsed(tmp_path):
    path = tmp_path / "long.yaml"
    path.write_bytes(b"# " + b"x" * (1 << 20))
    with pytest.raises(UserError, match=r"long\.yaml: longer than 1 MiB"):
        read_yaml(path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800", "gone.yaml"])
def test_a_name_that_cannot_be_read_is_one_line(name):
    with pytest.raises(UserError, match=r"^cannot read '"):
        read_yaml(Path(name))


def test_text_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: line 2: not UTF-8 text \(byte 11\)"):
        read_yaml(path)


@given(st.text() | st.text(st.sampled_from("ab:-?[]{},&*!|>'\"%#\\U\n\t 019.e~=<@`"), max_size=40))
def test_any_text_is_values_or_one_line(text):
    try:
        parse_yaml(text, "here")
    except UserError as error:
        assert str(error).startswith("here: ") and len(str(error).splitlines()) == 1
