"""Mixtures against brute force, against `datasets.interleave_datasets`, and through the settings."""

import json
import pickle
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observe_r1.config import DataSettings
from observe_r1.data import load_data, mix_sequences, mixture
from observe_r1.errors import UserError
from observe_r1.records import Example

sequence_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def sequences_of(lengths: Sequence[int]) -> list[list[Example]]:
    return [
        [Example(id=f"{which}.{row}", messages=(), images=(), answer="") for row in range(length)]
        for which, length in enumerate(lengths)
    ]


def ids(examples: Sequence[Example]) -> list[str]:
    return [example.id for example in examples]


@st.composite
def mixes(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    lengths = draw(sequence_lengths)
    shares = [draw(st.integers(1, 9)) for _ in lengths]
    return lengths, [share / sum(shares) for share in shares]


@given(sequence_lengths)
def test_without_probabilities_files_are_joined(lengths: list[int]) -> None:
    sequences = sequences_of(lengths)
    assert ids(mix_sequences(sequences, None, seed=0)) == ids(list(chain(*sequences)))


@given(mixes(), st.integers(0, 2**32))
def test_every_row_comes_and_smaller_files_repeat_in_order(mix: tuple[list[int], list[float]], seed: int) -> None:
    lengths, probs = mix
    seen: list[list[int]] = [[] for _ in lengths]
    exhausted_at = [0] * len(lengths)
    mixed = ids(mix_sequences(sequences_of(lengths), probs, seed))
    for place, name in enumerate(mixed):
        which, row = map(int, name.split("."))
        seen[which].append(row)
        if row == lengths[which] - 1 and not exhausted_at[which]:
            exhausted_at[which] = place + 1
    for rows, length in zip(seen, lengths, strict=True):
        assert rows == [place % length for place in range(len(rows))]
        assert len(rows) >= length
    assert len(mixed) == max(exhausted_at)


@settings(max_examples=15)
@given(mixes(), st.integers(0, 2**32))
def test_same_as_datasets(mix: tuple[list[int], list[float]], seed: int) -> None:
    lengths, probs = mix
    sequences = sequences_of(lengths)
    theirs = datasets.interleave_datasets(
        [datasets.Dataset.from_dict({"id": ids(sequence)}) for sequence in sequences],
        probabilities=probs,
        seed=seed,
        stopping_strategy="all_exhausted",
    )
    assert ids(mix_sequences(sequences, probs, seed)) == list(theirs["id"])


def test_draws_in_several_rounds_are_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = sequences_of([300, 200])
    at_once = ids(mix_sequences(sequences, [0.25, 0.75], seed=1))
    monkeypatch.setattr(mixture, "_DRAWS", 7)
    assert ids(mix_sequences(sequences, [0.25, 0.75], seed=1)) == at_once


def test_shares_and_seed() -> None:
    sequences = sequences_of([2000, 100, 100])
    mixed = ids(mix_sequences(sequences, [0.5, 0.4, 0.1], seed=0))
    counts = Counter(name.split(".")[0] for name in mixed)
    for which, share in zip("012", [0.5, 0.4, 0.1], strict=True):
        assert abs(counts[which] / len(mixed) - share) < 0.03  # three standard deviations are 0.024
    assert mixed == ids(mix_sequences(sequences, [0.5, 0.4, 0.1], seed=0))
    assert mixed[:50] != ids(mix_sequences(sequences, [0.5, 0.4, 0.1], seed=1))[:50]


def test_limit_slices_and_negative_indices() -> None:
    sequences = sequences_of([2, 3])
    assert ids(mix_sequences(sequences, None, seed=0, limit=3)) == ["0.0", "0.1", "1.0"]
    mixed = mix_sequences(sequences, None, seed=0, limit=99)
    assert (len(mixed), mixed[-1].id, ids(mixed[1:4])) == (5, "1.2", ["0.1", "1.0", "1.1"])
    with pytest.raises(IndexError):
        mixed[5]


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        ([0.5, 0.25, 0.25], "one probability per file, got 3 for 2"),
        ([1.0], "one probability per file, got 1 for 2"),
        ([0.5, 0.4], "sum to 1, sums to 0.9"),
        ([0.5, 0.500002], "sum to 1"),
        ([1.5, -0.5], "positive"),
        ([1.0, 0.0], "positive"),
        ([float("nan"), 0.5], "positive"),
    ],
)
def test_probabilities_that_do_not_fit(probs: list[float], message: str) -> None:
    with pytest.raises(UserError, match=f"data.probs = .*{message}"):
        mix_sequences(sequences_of([2, 3]), probs, seed=0)


def test_probabilities_may_be_rounded() -> None:
    assert len(mix_sequences(sequences_of([2, 3, 4]), [0.3333333, 0.3333333, 0.3333333], seed=0)) >= 9


def write(path: Path, rows: int, key: str = "message") -> Path:
    row = {key: [{"role": "user", "content": "?"}], "answer": "1"}
    path.write_text((json.dumps(row) + "\n") * rows)
    return path


def test_load_data_follows_its_settings(tmp_path: Path) -> None:
    small, large = write(tmp_path / "small.jsonl", 3, "chat"), write(tmp_path / "large.jsonl", 30, "chat")
    both = DataSettings(path=f"{small}, {large}", input_key="chat")
    joined = ids(load_data(both, seed=0))
    assert joined == [f"small#{row}" for row in range(1, 4)] + [f"large#{row}" for row in range(1, 31)]
    mixing = both.model_copy(update={"probs": (0.5, 0.5), "max_samples": 20})
    mixed = load_data(mixing, seed=0)
    assert len(mixed) == 20
    assert ids(mixed).count("small#1") > 1
    assert mixed[0].origin.startswith(str(tmp_path))
    assert ids(pickle.loads(pickle.dumps(mixed))) == ids(mixed)


def test_load_data_without_answers(tmp_path: Path) -> None:
    path = tmp_path / "sft.jsonl"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "1"}]
    path.write_text(json.dumps({"message": turns}))
    example = load_data(DataSettings(path=str(path)), seed=0, require_answer=False)[0]
    assert (example.answer, example.response) == ("", "1")
    with pytest.raises(UserError, match="no gold answer in 'answer'"):
        load_data(DataSettings(path=str(path)), seed=0)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 1)
    with pytest.raises(UserError, match="a name is missing next to a comma"):
        load_data(DataSettings(path=f"{path},"), seed=0)
    with pytest.raises(UserError, match="got 2 for 1"):
        load_data(DataSettings(path=str(path), probs=(0.5, 0.5)), seed=0)


@pytest.mark.parametrize("setting", ["data.path", "evaluation.path"])
def test_a_file_that_is_missing_is_named_with_its_setting(tmp_path: Path, setting: str) -> None:
    gone = tmp_path / "gone.jsonl"
    with pytest.raises(UserError, match=rf"^{setting}: {gone}: no such file; --{setting} names another$"):
        load_data(DataSettings(path=str(gone)), seed=0, setting=setting)
    with pytest.raises(UserError, match=rf"^{setting} = '{gone},': a name is missing"):
        load_data(DataSettings(path=f"{gone},"), seed=0, setting=setting)
