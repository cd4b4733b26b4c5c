"""Files that grow batch by batch: whatever a killed process leaves, the next one goes on from the last whole batch."""

import json
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observe_r1.errors import UserError
from observe_r1.ladder.journal import Journal, is_complete, read_progress, start_over

FILES = ("a.jsonl", "b.jsonl")
ROWS = 7
BATCH = 2


class Killed(BaseException):
    pass


def work(folder, stage, names, die_at=None, torn=b""):
    """Write row numbers batch by batch; die before the commit of the batch that starts at `die_at`."""
    if is_complete(folder, stage):
        return
    with Journal(folder, stage, names) as journal:
        for start in range(journal.done, ROWS, BATCH):
            rows = [{"stage": stage, "row": row} for row in range(start, min(start + BATCH, ROWS))]
            for name in names:
                journal.append(name, rows)
            if die_at is not None and start >= die_at:
                for name in names:
                    journal._files[name].write(torn)
                raise Killed
            journal.commit(start + len(rows), complete=start + len(rows) == ROWS)


STAGES = (("first", FILES), ("second", ("b.jsonl",)))


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, ROWS), st.sampled_from([b"", b'{"half": ', b"{}\n", b"\xff\n\n"])), max_size=4)
)
def test_any_deaths_leave_what_an_unbroken_run_writes(tmp_path_factory, deaths):
    broken, whole = tmp_path_factory.mktemp("broken"), tmp_path_factory.mktemp("whole")
    with patch("os.fsync"):  # waits for the disk; only a power cut would tell
        for death in [*deaths, None]:
            try:
                for stage, names in STAGES:
                    work(broken, stage, names, *(death or ()))
            except Killed:
                continue
        for stage, names in STAGES:
            work(whole, stage, names)
    for name in (*FILES, "progress.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert [json.loads(line)["row"] for line in (whole / "a.jsonl").read_text().splitlines()] == list(range(ROWS))


def test_a_stage_begun_again_keeps_what_earlier_stages_wrote(tmp_path):
    for stage, names in STAGES:
        work(tmp_path, stage, names)
    before = (tmp_path / "b.jsonl").read_bytes()
    start_over(tmp_path, ["second"])
    assert list(read_progress(tmp_path)) == ["first"]
    with Journal(tmp_path, "second", ["b.jsonl"]) as journal:
        assert journal.done == 0
        kept = (tmp_path / "b.jsonl").read_bytes()
        assert kept and before.startswith(kept) and b"second" not in kept
    work(tmp_path, "second", ["b.jsonl"])
    assert (tmp_path / "b.jsonl").read_bytes() == before
    start_over(tmp_path, ["first"])
    assert read_progress(tmp_path) == {}


def test_files_that_were_tampered_with_are_named(tmp_path):
    work(tmp_path, "first", FILES)
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(UserError, match=r"b\.jsonl: shorter than the \d+ bytes"), Journal(tmp_path, "next", FILES):
        pass


def test_a_stage_goes_on_only_with_the_file_that_it_began_with(tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"id": "a"}\n{"id": "b"}\n')
    with Journal(tmp_path, "measure", FILES, ["questions.jsonl", "not there"]) as journal:
        journal.commit(1, complete=False)
    with Journal(tmp_path, "measure", FILES, ["questions.jsonl", "not there"]) as journal:
        assert journal.done == 1
    questions.write_text('{"id": "a"}\n{"id": "c"}\n')
    with pytest.raises(UserError, match=r"questions\.jsonl: has changed since 'measure' began with it: restore"):
        Journal(tmp_path, "measure", FILES, ["questions.jsonl"])
    start_over(tmp_path, ["measure"])
    with Journal(tmp_path, "measure", FILES, ["questions.jsonl"]) as journal:
        assert journal.done == 0


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *(("{", ""), ("[1]", ""), ("3", ""), ('{"measure": {"done": 3, "complete"', "")),
        *(('{"read": 3}', ", 'read'"), ('{"read": {"done": 1, "sizes": {}}}', ", 'read', 'complete'")),
        ('{"read": {"done": "all", "complete": true, "sizes": {}}}', ", 'read', 'done'"),
        ('{"read": {"done": -1, "complete": true, "sizes": {}}}', ", 'read', 'done'"),
        ('{"read": {"done": 1, "complete": "no", "sizes": {}}}', ", 'read', 'complete'"),
        ('{"read": {"done": 1, "complete": true, "sizes": {"a.jsonl": 1.5}}}', ", 'read', 'sizes', 'a.jsonl'"),
        ('{"read": {"done": 1, "complete": true, "sizes": [3]}}', ", 'read', 'sizes'"),
    ],
)
def test_progress_that_was_tampered_with_is_named(tmp_path, text, key):
    (tmp_path / "progress.json").write_text(text)
    with pytest.raises(UserError, match=rf"progress\.json{key}: not as the build wrote it \(") as error:
        read_progress(tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(UserError, match=r"cannot write '.*a\.jsonl': Is a directory"), Journal(tmp_path, "next", FILES):
        pass
