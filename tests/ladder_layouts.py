"""One row of every public dataset that is a source, in its layout, and what it should become; images in the rows."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image

from observe_r1.ladder.sources.stream import BadRow, read_source
from observe_r1.records import Example


def examples_of(text: str, *, benchmark: bool = False) -> Iterator[Example]:
    """The examples of a source up to its first bad row, whose error is raised."""
    for row in read_source(text, benchmark=benchmark):
        if isinstance(row, BadRow):
            raise row.error
        yield row


def png(color: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (4, 3), color).save(buffer, format="PNG")
    return buffer.getvalue()


RED, BLUE = png("red"), png("blue")
IMAGE, SECOND = {"bytes": RED, "path": "1.png"}, {"bytes": BLUE, "path": None}
NO_IMAGE = {"bytes": None, "path": None}


@dataclass(frozen=True)
class Layout:
    name: str
    row: dict[str, Any]
    """As the files of the dataset hold it."""
    content: list[str]
    """Texts of the user turn in order, `<image>` for each image."""
    answer: str
    id: str = "1"
    images: tuple[bytes | str, ...] = (RED,)
    """Bytes, or paths below the folder."""
    needed: tuple[str, ...] = ()
    """Columns whose loss makes the row an error."""
    broken: dict[str, list[Any]] = field(default_factory=dict)
    """Values, by column, that make the row an error."""
    file: str = "train.parquet"
    group: str = ""
    """The file is one object that holds the rows under this name."""


HUB_LAYOUTS = [
    Layout(
        "geometry3k",
        {
            "images": [IMAGE],
            "problem": "<image>How long is $P Q$?",
            "answer": "3 \\sqrt { 5 }",
            "id": 12,
            "choices": ["6", "3 \\sqrt { 5 }", "7", "9"],
            "ground_truth": "B",
        },
        ["<image>", "How long is $P Q$?"],
        "3 \\sqrt { 5 }",
        id="12",
        needed=("images", "problem", "answer"),
        broken={"images": [[], None, [NO_IMAGE]], "problem": ["", "<image><image>x"], "answer": [None, " "]},
    ),
    Layout(
        "mathvision",
        {
            "id": "31",
            "question": "Which triangle fits?\n<image1>",
            "options": ["A", "B", "C"],
            "image": "images/31.jpg",
            "decoded_image": IMAGE,
            "answer": "C",
            "solution": None,
            "level": 2,
            "subject": "transformation geometry",
        },
        ["<image>", "Which triangle fits?\nA. A\nB. B\nC. C"],
        "C",
        id="31",
        needed=("question", "options", "answer", "id"),
        broken={"options": [["A"], None], "answer": ["D", "", None], "decoded_image": [NO_IMAGE]},
        file="test-00000-of-00001.parquet",
    ),
    Layout(
        "we_math",
        {
            "ID": "3steps_7",
            "split": "testmini",
            "knowledge concept": "Area of Kites;Units of Area",
            "question": "The kite covers (  ) cm².",
            "option": "A. 12 ;B. 3, 4;C. A or B; D. 7.; E. No correct answer",
            "answer": "B",
            "key": "3steps_multi",
            "question number": 42,
            "knowledge concept description": "Area of Kites:\n1. Half of ...",
            "image_path": IMAGE,
        },
        ["<image>", "The kite covers (  ) cm².\nA. 12\nB. 3, 4\nC. A or B\nD. 7.\nE. No correct answer"],
        "B",
        id="3steps_7-3steps_multi",
        needed=("ID", "question", "option", "answer", "key", "image_path"),
        broken={"option": ["200 or 300", None], "answer": ["F", None], "image_path": [NO_IMAGE]},
    ),
    Layout(
        "polymath",
        {
            "image": IMAGE,
            "question_text": "3 : 9 :: 5 : ?",
            "answer_option": "(1) 10 (2) 25 (3) 15 (4) 20",
            "category": "pattern_recognition",
            "final_answer_range": " 1-4",
            "contains_diagram": False,
            "diagram_description": "No Diagram",
            "final_answer": "2",
        },
        ["<image>", "3 : 9 :: 5 : ?\nA. 10\nB. 25\nC. 15\nD. 20"],
        "B",
        needed=("image", "question_text", "answer_option", "final_answer"),
        broken={"answer_option": ["6 or 8", None], "final_answer": ["5", "0", "A,B", None], "image": [NO_IMAGE]},
        file="test.parquet",
    ),
    Layout(
        "mmk12",
        {"id": "6a", "question": "As shown in <image>, find x.", "answer": "3", "subject": "math", "image": IMAGE},
        ["As shown in ", "<image>", ", find x."],
        "3",
        id="6a",
        needed=("id", "question", "answer", "image"),
        broken={"question": [None, "<image> and <image>"], "answer": [""], "image": [NO_IMAGE]},
    ),
    Layout(
        "multimodal_open_r1",
        {
            "image": IMAGE,
            "problem": "How many?",
            "solution": "<think>One, two.</think>\n\n<answer>2</answer>",
            "original_question": "Hint: ...\nQuestion: How many?",
            "original_answer": "One, two.\nAnswer: 2",
        },
        ["<image>", "How many?"],
        "2",
        needed=("image", "problem", "solution"),
        broken={"solution": ["2", "<answer> </answer>", None], "image": [NO_IMAGE]},
    ),
    Layout(
        "geoqa",
        {"image": IMAGE, "problem": "Find ∠A.", "solution": "<answer> 145° </answer>"},
        ["<image>", "Find ∠A."],
        "145°",
        needed=("image", "problem", "solution"),
        broken={"solution": ["145°"], "image": [NO_IMAGE]},
    ),
    Layout(
        "geoqa",
        {"images": [IMAGE], "problem": "<image>Find ∠A.", "answer": "145°"},
        ["<image>", "Find ∠A."],
        "145°",
        needed=("problem", "answer"),
        broken={"images": [[], None, [NO_IMAGE]], "problem": ["<image><image>x"], "answer": [None, " "]},
        file="geoqa_plus.parquet",
    ),
    Layout(
        "m3cot",
        {
            "id": "physical-commonsense-1",
            "category": "physical-commonsense",
            "image_id": "x",
            "question": "What floats?",
            "choices": ["a stone", "a cork"],
            "context": "Water is heavy.",
            "answer": "B",
            "rationale": "Cork is light.",
            "split": "train",
            "image": IMAGE,
            "domain": "commonsense",
            "topic": "physical-commonsense",
        },
        ["<image>", "Water is heavy.\nWhat floats?\nA. a stone\nB. a cork"],
        "B",
        id="physical-commonsense-1",
        needed=("id", "question", "choices", "answer", "image"),
        broken={"choices": [[], ["one"], None], "answer": ["C", None], "image": [None, NO_IMAGE]},
    ),
    Layout(
        "scienceqa",
        {
            "image": IMAGE,
            "question": "Which jar is fullest?",
            "choices": ["the left one", "the right one"],
            "answer": 0,
            "hint": "Two jars stand on a shelf.",
            "task": "closed choice",
            "grade": "grade2",
            "subject": "natural science",
            "topic": "physics",
            "category": "Volume",
            "skill": "Compare volumes",
            "lecture": "A volume is a space.",
            "solution": "The left one is.",
        },
        ["<image>", "Two jars stand on a shelf.\nWhich jar is fullest?\nA. the left one\nB. the right one"],
        "A",
        needed=("image", "question", "choices", "answer"),
        broken={"choices": [[]], "answer": [3, -1, None], "image": [None]},
    ),
    Layout(
        "chartqa",
        {"image": IMAGE, "query": "How many bars?", "label": ["14"], "human_or_machine": 0},
        ["<image>", "How many bars?"],
        "14",
        needed=("image", "query", "label"),
        broken={"label": [[], ["1", "2"], [""], None], "image": [NO_IMAGE]},
    ),
    Layout(
        "clevr_math",
        {
            "template": "subtraction",
            "id": "CLEVR_train_000000.png",
            "question": "Subtract all cubes. How many objects are left?",
            "image": IMAGE,
            "label": 4,
        },
        ["<image>", "Subtract all cubes. How many objects are left?"],
        "4",
        needed=("question", "image", "label"),
        broken={"label": [None], "image": [NO_IMAGE]},
    ),
]
