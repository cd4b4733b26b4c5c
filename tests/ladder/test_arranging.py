"""Arranging, from files alone: levels, size and shares, mixing, and the same bytes every time."""

import subprocess
import sys

import datasets
import pytest
import yaml
from measured_ladder import TRIES, read, review, run, write

from observe_r1.cli import ladder as ladder_commands
from observe_r1.cli.main import main
from observe_r1.config import ArrangeSettings
from observe_r1.data import load_examples, open_image
from observe_r1.errors import UserError
from observe_r1.ladder import mix
from observe_r1.ladder.arranging import MeasuredQuestion, min_complexity
from observe_r1.ladder.journal import Journal
from observe_r1.report.build_folder import open_build
from observe_r1.report.ladder_page import ladder_card
from observe_r1.report.ladder_summary import count_dropped, summarize_ladder

pytest_plugins = ["measured_ladder"]


def _complexity(row):
    return row["complexity"]


def by_hand(measured, keep=lambda row: row["correct"] > 0):
    levels = [[] for _ in range(TRIES + 1)]
    for row in measured:
        if keep(row):
            levels[TRIES - row["correct"]].append(row)
    return levels


def test_everything_measured_is_in_the_ladder_once_in_the_order_of_the_mixing_rule(built):
    measured = read(built / "measured.jsonl")
    ladder = run(built, seed=5)
    slots = mix(by_hand(measured), 5, _complexity)
    assert [(r["id"], r["slot"]) for r in ladder] == [(r["id"], s) for s, slot in enumerate(slots) for r in slot]
    figures = {r["id"]: r for r in measured}
    for row in ladder:
        for name in ("difficulty", "complexity", "complexity_correct", "well_formed"):
            assert row[name] == figures[row["id"]][name]
    unsolved = read(built / "unsolved.jsonl")
    assert {r["id"] for r in unsolved} == {r["id"] for r in measured if r["correct"] == 0}
    assert all(r["difficulty"] == 1 and "slot" not in r for r in unsolved)


def test_the_same_files_give_the_same_bytes_and_another_seed_another_order(built):
    names = ("ladder.jsonl", "unsolved.jsonl", "dropped.jsonl", "progress.json")
    run(built, seed=1, size=20)
    once = [(built / name).read_bytes() for name in names]
    run(built, seed=2, size=20)
    assert (built / "ladder.jsonl").read_bytes() != once[0]
    run(built, seed=1, size=20)
    assert [(built / name).read_bytes() for name in names] == once


def test_short_responses_go_and_every_row_is_somewhere(built):
    ladder = run(built, min_complexity=150, size=10)
    dropped, unsolved = read(built / "dropped.jsonl"), read(built / "unsolved.jsonl")
    assert all(row["complexity"] >= 150 for row in ladder + unsolved) and len(ladder) == 10
    assert dropped[0]["id"] == "early"
    ids = [row["id"] for row in ladder + unsolved + dropped[1:]]
    assert sorted(ids) == sorted(f"q{number}" for number in range(60))
    assert {row["reason"] for row in dropped[1:]} == {"low complexity", "not drawn for size or shares"}
    low = {row["id"] for row in dropped if row["reason"] == "low complexity"}
    assert low == {row["id"] for row in read(built / "measured.jsonl") if row["complexity"] < 150}


def test_what_every_response_solved_can_be_left_out_unless_the_review_keeps_it(built):
    measured = read(built / "measured.jsonl")
    kept, *solved = [row["id"] for row in measured if row["correct"] == TRIES]
    review(built, **{kept: ("keep", "1")})
    ladder = run(built, seed=5, drop_solved=True)
    slots = mix(by_hand(measured, lambda row: row["correct"] > 0 and row["id"] not in solved), 5, _complexity)
    assert [(r["id"], r["slot"]) for r in ladder] == [(r["id"], s) for s, slot in enumerate(slots) for r in slot]
    dropped = read(built / "dropped.jsonl")[1:]
    assert [row["id"] for row in dropped] == solved
    assert {row["reason"] for row in dropped} == {"solved by every response"}
    assert ladder_commands.mostly_lost(0, count_dropped(built)) == ""  # they do not count as lost


def test_shares_are_kept_and_a_level_with_too_few_is_said(built):
    counts = [len(level) for level in by_hand(read(built / "measured.jsonl"))]
    notes = []
    ladder = run(built, notes, size=12, shares=[1, 1, 1, 1, 2])
    found = [sum(row["difficulty"] == level / TRIES for row in ladder) for level in range(TRIES + 1)]
    assert found == [3, 3, 3, 3, 0] and min(counts[:4]) >= 3
    assert notes == ["fewer questions than the shares ask for: d = 1 has 0 of 4"]
    run(built, notes, size=1000)
    assert notes[-1] == f"the ladder has {sum(counts)} questions: there are no more for arrange.size = 1000"


@pytest.mark.parametrize(
    ("lengths", "shortest"),
    [
        ([2, 23, 56, 150, 180, 200, 210, 230, 240, 250, 300], 40),  # the paper's figure: 2 and 23 go, 56 stays
        ([1, 4, 5, 5, 6, 6, 7, 8], 1.1),  # bare answers
        ([60, 70, 80], 14),
        ([1000, 2000, 3000], 40),
    ],
)
def test_the_shortest_responses_go_by_what_is_short_among_all(lengths, shortest):
    items = [MeasuredQuestion(0, {"complexity": length}) for length in lengths]
    assert min_complexity(items, ArrangeSettings()) == pytest.approx(shortest)
    assert min_complexity(items, ArrangeSettings(min_complexity=7)) == 7


def test_a_ladder_of_short_answers_keeps_them_by_default(built):
    rows = read(built / "measured.jsonl")
    for number, row in enumerate(rows):
        row["complexity"] = 1 if number < 2 else 8 + number % 5
    write(built / "measured.jsonl", rows)
    notes = []
    ladder = run(built, notes, min_complexity=None)
    low = [row for row in read(built / "dropped.jsonl") if row["reason"] == "low complexity"]
    assert [row["id"] for row in low] == ["q0", "q1"] and low[0]["detail"] == "1 tokens per response, under 2"
    assert len(ladder) + len(read(built / "unsolved.jsonl")) == 58
    told = "2 questions dropped: responses of under 2 tokens (arrange.min_complexity, by default from the median)"
    assert notes == [told]


def test_a_measurement_that_has_not_ended_is_not_arranged(built):
    """What stands in its files may be half a row, and going on with it would not know of the arrangement."""
    with Journal(built, "measure", ["measured.jsonl", "responses.jsonl", "dropped.jsonl"]) as journal:
        journal.commit(30, complete=False)
    with (built / "measured.jsonl").open("a") as file:
        file.write('{"id": "half')
    before = {path: path.read_bytes() for path in built.iterdir()}
    with pytest.raises(UserError, match="the measurement is not complete: run `observe-r1 ladder measure"):
        run(built)
    (built / "refreshed-1").mkdir()
    with pytest.raises(UserError, match="refreshed-1: the measurement is not complete: run `observe-r1 ladder refresh"):
        run(built, measured="refreshed-1")
    known = r"\(did you mean 'refreshed-1'\?\): there are '\.', 'refreshed-1'$"
    with pytest.raises(UserError, match=rf"measured = 'refreshed-2': no such folder in .* {known}"):
        run(built, measured="refreshed-2")
    (built / "refreshed-1").rmdir()
    assert {path: path.read_bytes() for path in built.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("tries"), r"row 3, 'tries': not as the build wrote it: needs int \(.*--anew\), got null"),
        (lambda row: row.update(correct="2"), "row 3, 'correct': not as the build wrote it: needs int .* got '2'"),
        (lambda row: row.update(complexity=None), "row 3, 'complexity': not as the build wrote it: needs int | float"),
        (lambda row: row.update(id=7), "row 3, 'id': not as the build wrote it: needs str .* got 7"),
        (lambda row: row.update(correct=TRIES + 1), "'q2' has 5 of 4 right"),
        (lambda row: row.update(correct=-1), "'q2' has -1 of 4 right"),
    ],
)
def test_figures_that_were_tampered_with_are_named(built, change, message):
    rows = read(built / "measured.jsonl")
    change(rows[2])
    write(built / "measured.jsonl", rows)
    with pytest.raises(UserError, match=rf"measured\.jsonl.*{message}"):
        run(built)


@pytest.mark.parametrize(
    ("line", "message"), [("3", "row 61: not as the build wrote it"), ('{"id": "q', "line 61, column")]
)
def test_a_last_line_that_no_build_wrote_is_named(built, line, message):
    with (built / "measured.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(UserError, match=rf"measured\.jsonl.*{message}"):
        run(built)


@pytest.mark.parametrize("values", [{"min_complexity": 1000}, {"shares": [0, 0, 0, 0, 1]}, {"shares": [1, 1]}])
def test_what_cannot_be_arranged_leaves_the_arrangement_before_it(built, values):
    run(built, size=20)
    before = {path: path.read_bytes() for path in built.iterdir()}
    with pytest.raises(UserError):
        run(built, **values)
    assert {path: path.read_bytes() for path in built.iterdir()} == before


def test_a_image_that_cannot_be_copied_leaves_the_arrangement_before_it(built):
    run(built, size=20)
    before = {path: path.read_bytes() for path in built.iterdir()}
    (built.parent / "outside.png").unlink()
    with pytest.raises(UserError, match=r"outside\.png"):
        run(built, images="copy")
    assert {path: path.read_bytes() for path in built.iterdir()} == before


def test_where_nothing_was_solved_the_first_arrangement_leaves_something_to_review(built):
    rows = [row | {"correct": 0, "difficulty": 1.0} for row in read(built / "measured.jsonl")]
    write(built / "measured.jsonl", rows)
    with pytest.raises(UserError, match="60 of them unsolved and waiting for review"):
        run(built)
    assert len(read(built / "unsolved.jsonl")) == 60 and not (built / "ladder.jsonl").exists()
    review(built, q7=("keep", "1"))
    assert [row["id"] for row in run(built)] == ["q7"]


def test_questions_that_all_fell_out_before_are_said_whatever_the_shares(built):
    write(built / "measured.jsonl", [])
    with pytest.raises(UserError, match="no question is left for the ladder"):
        run(built, shares="published")


def test_images_are_copied_and_the_format_prompt_written_in_where_asked_for(built, tmp_path):
    run(built, images="copy", format_prompt="think", format_prompt_place="suffix")
    (tmp_path / "outside.png").unlink()
    built.rename(tmp_path / "moved")
    examples = load_examples(tmp_path / "moved")
    assert open_image(examples[0].images[0], "").getpixel((0, 0)) == (255, 0, 0)
    assert len(list((tmp_path / "moved" / "images").iterdir())) == 1
    assert "<think>" in examples[0].messages[-1]["content"][-1]["text"]
    assert [e.difficulty for e in examples] == [row["difficulty"] for row in read(tmp_path / "moved" / "ladder.jsonl")]


def full_disk(folder):
    raise UserError("no space left")


def write_card(folder):
    (folder / "README.md").write_text(ladder_card(summarize_ladder(open_build(folder))))


def test_the_command_arranges_reviews_and_remembers_its_settings(built, tmp_path, capsys, monkeypatch):
    folder = str(built)
    monkeypatch.setattr(ladder_commands, "write_ladder_report", write_card)  # the figures take their time
    assert main(["ladder", "review", folder]) == 2
    assert f"nothing to review yet: run `observe-r1 ladder arrange {folder}` first" in capsys.readouterr().err
    assert not (built / "review.html").exists()
    assert main(["ladder", "arrange", folder, "--arrange.min_complexity", "100", "--seed", "3"]) == 0
    *_, last = (said := capsys.readouterr().out).splitlines()
    assert last == f"train on it: `observe-r1 train observe_r1 --model.path MODEL --data.path {folder}`"
    assert f"\nladder: {len(read(built / 'ladder.jsonl'))} questions, in {folder}/ladder.jsonl\n" in said
    dropped = len(read(built / "dropped.jsonl"))
    assert f"\ndropped: {dropped} questions; {folder}/dropped.jsonl says why\n" in said
    assert f"\nlook at it: {folder}/ladder.html\n" in said
    recorded = yaml.safe_load((built / "ladder.yaml").read_text())["arrange"]
    assert recorded["min_complexity"] == 100 and recorded["seed"] == 3
    once = (built / "ladder.jsonl").read_bytes()
    assert main(["ladder", "arrange", folder]) == 0 and (built / "ladder.jsonl").read_bytes() == once
    assert main(["ladder", "arrange", folder, "--arrange.shares", "1,2"]) == 2
    assert "2 shares for 5 levels" in capsys.readouterr().err
    assert main(["ladder", "arrange", folder]) == 0  # what was refused is not remembered
    assert main(["ladder", "review", folder]) == 0
    assert main(["ladder", "arrange", folder]) == 0 and (built / "ladder.jsonl").read_bytes() == once
    assert main(["ladder", "arrange", folder, "--arrange.min_complexity", "1000"]) == 2
    assert "no question is left for the ladder" in capsys.readouterr().err
    monkeypatch.setattr(ladder_commands, "write_ladder_report", full_disk)
    assert main(["ladder", "arrange", folder, "--seed", "4"]) == 2
    assert yaml.safe_load((built / "ladder.yaml").read_text())["arrange"]["seed"] == 4  # as the ladder was made
    monkeypatch.setattr(ladder_commands, "write_ladder_report", write_card)
    assert main(["ladder", "arrange", folder, "--seed", "3"]) == 0 and (built / "ladder.jsonl").read_bytes() == once
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert len(datasets.load_dataset(folder, cache_dir=str(tmp_path / "cache"))["train"]) == len(once.splitlines())


def test_arranging_and_reviewing_load_no_torch(built):
    """They ask no model: what takes seconds to import has no part in them."""
    code = f"""
import sys
from observe_r1.cli.main import main
codes = [main(["ladder", verb, {str(built)!r}]) for verb in ("arrange", "review")]
print(codes, sorted({{"torch", "transformers", "datasets"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0] []"
    assert "torch" not in done.stdout + done.stderr
