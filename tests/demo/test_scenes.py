"""Images, questions and answers of the world, checked against counters that read the pixels."""

import re
from random import Random

import numpy as np
import pytest
from transformers.image_utils import OPENAI_CLIP_MEAN

from observe_r1.demo.dataset import make_item, make_items
from observe_r1.demo.scene import BACKGROUND, LEVELS, draw_scene, render
from observe_r1.demo.tasks import KINDS, Attribute, Question


def seen_in(image) -> list[tuple[str, str] | None]:
    """What each 28×28 cell shows, from the pixels alone: hue by the strongest channels, shape by the area it fills."""
    pixels = np.asarray(image).astype(int)
    return [_seen_in_cell(pixels[y : y + 28, x : x + 28]) for y in (0, 28, 56) for x in (0, 28, 56)]


def _seen_in_cell(cell: np.ndarray) -> tuple[str, str] | None:
    painted = (cell != (123, 117, 104)).any(-1)
    if not painted.any():
        return None
    red, green, blue = cell[painted].mean(0)
    colour = "yellow" if min(red, green) > 150 else ("red", "green", "blue")[int(np.argmax((red, green, blue)))]
    rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    filled = painted.sum() / box
    return colour, "square" if filled > 0.95 else "circle" if filled > 0.68 else "triangle"


def answer_from(text: str, cells: list[tuple[str, str] | None]) -> int:
    """The answer to a question's text, by brute force over what the pixels show."""
    things = [cell for cell in cells if cell]
    counts = []
    for colour, shape in re.findall(r"(?:(red|green|blue|yellow) )?(object|circle|square|triangle)s", text):
        counts.append(sum((not colour or c == colour) and shape in ("object", s) for c, s in things))
    if "difference" in text:
        return abs(counts[0] - counts[1])
    return sum(counts)


def test_images_show_what_the_scene_says():
    for item in make_items("train", 0, 300):
        names = ["-".join(cell) if cell else "empty" for cell in seen_in(render(item.scene))]
        assert names == item.scene.cell_names()


def test_answers_are_what_counting_in_the_image_gives():
    for item in make_items("train", 1, 600):
        assert item.answer == str(answer_from(item.question.text, seen_in(render(item.scene)))), item


def test_background_is_the_processors_mean_colour():
    assert tuple(round(255 * mean) for mean in OPENAI_CLIP_MEAN) == BACKGROUND


def test_positions_and_sizes_vary():
    objects = [thing for item in make_items("train", 2, 100) for thing in item.scene.objects]
    assert len({thing.shift for thing in objects}) == 49
    assert {thing.radius for thing in objects} == {8, 9, 10}


@pytest.mark.parametrize("level", LEVELS)
def test_level_is_the_number_of_objects(level):
    assert len(draw_scene(Random(0), level).objects) == level
    item = make_item("train", 0, 0, level)
    assert item.level == level == sum(cell is not None for cell in seen_in(render(item.scene)))


def test_every_kind_and_level_occurs_about_equally_often():
    items = make_items("train", 3, 1800)
    for values, of in ((list(KINDS), lambda item: item.question.kind), (LEVELS, lambda item: item.level)):
        counts = [sum(of(item) == value for item in items) for value in values]
        expected = len(items) / len(values)
        assert sum(counts) == len(items)
        assert all(0.75 * expected < count < 1.25 * expected for count in counts)


def test_attributes_of_one_question_differ():
    questions = [item.question for item in make_items("train", 4, 300)]
    assert all(len(set(question.attributes)) == len(question.attributes) for question in questions)
    assert {len(question.attributes) for question in questions} == {1, 2}


@pytest.mark.parametrize(
    ("kind", "attributes", "text"),
    [
        ("count_colour", [("red", None)], "How many red objects are there?"),
        ("count_shape", [(None, "circle")], "How many circles are there?"),
        ("count_both", [("red", "circle")], "How many red circles are there?"),
        ("sum_colours", [("red", None), ("blue", None)], "How many red objects and blue objects are there together?"),
        (
            "difference",
            [("red", None), ("blue", None)],
            "What is the difference between the number of red objects and the number of blue objects?",
        ),
        (
            "colour_plus_shape",
            [(None, "square"), ("red", None)],
            "What is the number of squares plus the number of red objects?",
        ),
    ],
)
def test_wording(kind, attributes, text):
    assert Question(kind, tuple(Attribute(*fields) for fields in attributes)).text == text
