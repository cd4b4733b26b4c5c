"""Items are reproducible, splits never overlap, demonstrations are well-formed and wrong as often as stated."""

import re
from random import Random

import pytest

from observe_r1.demo import tasks as teacher
from observe_r1.demo.dataset import make_item, make_items
from observe_r1.demo.tasks import Attribute, Question

RESPONSE = re.compile(
    r"<observe>((?: (?:empty|(?:red|green|blue|yellow)-(?:circle|square|triangle))){9}) </observe>"
    r" <think>((?: [a-z-]+ \d+){1,2}) </think> <answer> (\d+) </answer>"
)


def shown_and_asked(item) -> tuple[str, str]:
    return " ".join(item.scene.cell_names()), item.question.text


def test_an_item_depends_on_split_seed_and_index_alone():
    items = make_items("train", 7, 20)
    assert [make_item("train", 7, index) for index in reversed(range(20))] == items[::-1]
    assert make_items("train", 8, 20) != items
    assert len({item.id for seed in (7, 8) for split in ("train", "sft") for item in make_items(split, seed, 20)}) == 80


def test_items_stay_the_same_between_versions():
    item = make_item("held_out", 0, 0)
    cells = "blue-square empty empty yellow-square empty empty red-triangle blue-square green-square"
    assert item.scene.cell_names() == cells.split()
    assert item.question.text == "How many blue objects are there?"


def test_no_two_splits_share_an_item_whatever_their_seeds():
    seen = {
        split: {shown_and_asked(item) for seed in (0, 1) for item in make_items(split, seed, 1000)}
        for split in ("train", "sft", "held_out")
    }
    assert not seen["held_out"] & (seen["train"] | seen["sft"])
    assert not seen["train"] & seen["sft"]
    # the test can fail: two seeds of one split do share the easiest items
    first, second = ({shown_and_asked(i) for i in make_items("held_out", seed, 1000)} for seed in (0, 1))
    assert first & second


def test_demonstrations_are_well_formed_and_describe_the_image_correctly():
    for item in make_items("sft", 0, 500):
        match = RESPONSE.fullmatch(item.demonstration)
        assert match, item.demonstration
        assert match[1].split() == item.scene.cell_names()


def test_demonstrated_answers_follow_from_the_demonstrated_counts():
    for item in make_items("sft", 1, 500):
        _, counted, answer = RESPONSE.fullmatch(item.demonstration).groups()
        counts = [int(count) for count in counted.split()[1::2]]
        assert counted.split()[::2] == [attribute.name for attribute in item.question.attributes[: len(counts)]]
        difference = item.question.kind == "difference" and len(counts) == 2
        assert int(answer) == (abs(counts[0] - counts[1]) if difference else sum(counts))


def test_the_teacher_slips_as_often_as_stated_and_in_no_other_way():
    large = forgotten = short = two = 0
    for item in make_items("sft", 2, 3000):
        counts = [int(count) for count in RESPONSE.fullmatch(item.demonstration)[2].split()[1::2]]
        truth = [attribute.count(item.scene) for attribute in item.question.attributes]
        two += len(truth) == 2
        forgotten += len(counts) < len(truth)
        for stated, true in zip(counts, truth, strict=False):
            large += true >= 3
            short += stated == true - 1
            assert stated == true or (true >= 3 and stated == true - 1)
    assert forgotten / two == pytest.approx(teacher.FORGET, abs=0.05)
    assert short / large == pytest.approx(teacher.MISCOUNT, abs=0.06)


def test_truth_is_within_reach_of_the_teachers_format(monkeypatch):
    monkeypatch.setattr(teacher, "MISCOUNT", 0)
    monkeypatch.setattr(teacher, "FORGET", 0)
    for item in make_items("train", 3, 300):
        response = teacher.demonstrate(Random(0), item.scene, item.question)
        assert RESPONSE.fullmatch(response)[3] == item.answer


def test_a_response_in_full():
    item = make_item("train", 0, 0, level=9)
    question = Question("difference", (Attribute("red"), Attribute("blue")))
    cells = " ".join(item.scene.cell_names())
    assert teacher.write_response(item.scene, question, [1, 3]) == (
        f"<observe> {cells} </observe> <think> red 1 blue 3 </think> <answer> 2 </answer>"
    )
    assert teacher.write_response(item.scene, question, [1]).endswith("<think> red 1 </think> <answer> 1 </answer>")
