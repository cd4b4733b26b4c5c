"""One row of every public dataset that is a source, in exactly its layout, and what it should become."""

from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image


def png(color: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (4, 3), color).save(buffer, format="PNG")
    return buffer.getvalue()


RED, BLUE = png("red"), png("blue")
PICTURE, SECOND = {"bytes": RED, "path": "1.png"}, {"bytes": BLUE, "path": None}
NO_PICTURE = {"bytes": None, "path": None}


@dataclass(frozen=True)
class Layout:
    name: str
    row: dict[str, Any]
    """As the files of the dataset hold it."""
    content: list[str]
    """Texts of the user turn in order, `<image>` for each picture."""
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


LAYOUTS = [
    Layout(
        "geometry3k",
        {
            "images": [PICTURE],
            "problem": "<image>Find $x$.",
            "answer": "2 \\sqrt { 221 }",
            "id": 2401,
            "choices": ["11", "2 \\sqrt { 221 }", "29", "30"],
            "ground_truth": "B",
        },
        ["<image>", "Find $x$."],
        "2 \\sqrt { 221 }",
        id="2401",
        needed=("images", "problem", "answer", "id"),
        broken={"images": [[], None, [NO_PICTURE]], "problem": ["", "<image><image>x"], "answer": [None, " "]},
    ),
    Layout(
        "mathv360k",
        {
            "id": "identity_7",
            "image": "TabMWP/images/7.png",
            "conversations": [
                {
                    "from": "human",
                    "value": "<image>\nHint: Please answer the question and provide the correct option letter, e.g., "
                    "A, B, C, D, at the end.\nQuestion: Is 2 even?\nChoices:\n(A) no\n(B) yes",
                },
                {"from": "gpt", "value": "The answer is B"},
            ],
        },
        ["<image>", "Is 2 even?\nA. no\nB. yes"],
        "B",
        id="identity_7",
        images=("data_images/TabMWP/images/7.png",),
        needed=("image", "conversations"),
        broken={
            "image": [None, "TabMWP/images/none.png"],
            "conversations": [
                None,
                [],
                [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": ""}],
                [{"from": "human", "value": "Q\nChoices:\n(A) 1 (B) 2"}, {"from": "gpt", "value": "The answer is C"}],
                [{"from": "human", "value": "Q\nChoices:\nred or blue"}, {"from": "gpt", "value": "The answer is A"}],
            ],
        },
        file="train_samples_all_tuning.json",
    ),
    Layout(
        "mathvision",
        {
            "id": "1486",
            "question": "Which triangle fits?\n<image1>",
            "options": ["A", "B", "C"],
            "image": "images/1486.jpg",
            "decoded_image": PICTURE,
            "answer": "C",
            "solution": None,
            "level": 2,
            "subject": "transformation geometry",
        },
        ["<image>", "Which triangle fits?\nA. A\nB. B\nC. C"],
        "C",
        id="1486",
        needed=("question", "options", "answer", "id"),
        broken={"options": [["A"], None], "answer": ["D", "", None], "decoded_image": [NO_PICTURE]},
        file="test-00000-of-00001.parquet",
    ),
    Layout(
        "we_math",
        {
            "ID": "3steps_165",
            "split": "testmini",
            "knowledge concept": "Area of Circles",
            "question": "What is the area (  ) m²?",
            "option": "A. 200.96;B. 3215.36;C. 6280;D. 32; E. No correct answer",
            "answer": "B",
            "key": "3steps_3",
            "question number": 1575,
            "knowledge concept description": "Area of ...",
            "image_path": PICTURE,
        },
        ["<image>", "What is the area (  ) m²?\nA. 200.96\nB. 3215.36\nC. 6280\nD. 32\nE. No correct answer"],
        "B",
        id="3steps_165-3steps_3",
        needed=("ID", "question", "option", "answer", "key", "image_path"),
        broken={"option": ["200 or 300", None], "answer": ["F", None], "image_path": [NO_PICTURE]},
    ),
    Layout(
        "scemqa",
        {
            "Question": "Which are true?\nI. Means.\nII. Ranges.\n\n(A) I only\n(B) II only",
            "Answer (final answer highlighted)": "(B) because the ranges agree",
            "ImagePath": "Math/1",
        },
        ["<image>", "Which are true?\nI. Means.\nII. Ranges.\nA. I only\nB. II only"],
        "B",
        images=("Math/1.jpg",),
        needed=("Question", "Answer (final answer highlighted)", "ImagePath"),
        broken={
            "Answer (final answer highlighted)": ["C", "\\answer{3.397} \\answer{3}", "both", None],
            "ImagePath": ["Math/2", ""],
        },
        file="multiple_choice.json",
        group="Math",
    ),
    Layout(
        "polymath",
        {
            "image": PICTURE,
            "question_text": "441 : 7 :: 576 : ?",
            "answer_option": "(1) 6 (2) 8 (3) 12 (4) 14",
            "category": "pattern_recognition",
            "final_answer_range": " 1-4",
            "contains_diagram": False,
            "diagram_description": "No Diagram",
            "final_answer": "2",
        },
        ["<image>", "441 : 7 :: 576 : ?\nA. 6\nB. 8\nC. 12\nD. 14"],
        "B",
        needed=("image", "question_text", "answer_option", "final_answer"),
        broken={"answer_option": ["6 or 8", None], "final_answer": ["5", "0", "A,B", None], "image": [NO_PICTURE]},
        file="test.parquet",
    ),
    Layout(
        "mmk12",
        {"id": "6a", "question": "As shown in <image>, find x.", "answer": "3", "subject": "math", "image": PICTURE},
        ["As shown in ", "<image>", ", find x."],
        "3",
        id="6a",
        needed=("id", "question", "answer", "image"),
        broken={"question": [None, "<image> and <image>"], "answer": [""], "image": [NO_PICTURE]},
    ),
    Layout(
        "virl39k",
        {
            "question": "<image>\n<image>\nWhich is longer?",
            "answer": "\\boxed{\\frac{1}{2}}",
            "PassRate_32BTrained": 0.5,
            "PassRate_7BBase": 0.25,
            "category": "(GradeSchool) Geometric",
            "source": "Processed",
            "qid": "Processed-1",
            "image": ["images/1.png", "images/2.png"],
        },
        ["<image>", "<image>", "Which is longer?"],
        "\\frac{1}{2}",
        id="Processed-1",
        images=("images/1.png", "images/2.png"),
        needed=("question", "answer", "qid", "image"),
        broken={"image": [[], ["images/1.png"], ["images/1.png", "images/3.png"]], "answer": [""]},
        file="39Krelease.parquet",
    ),
    Layout(
        "multimodal_open_r1",
        {
            "image": PICTURE,
            "problem": "How many?",
            "solution": "<think>One, two.</think>\n\n<answer>2</answer>",
            "original_question": "How many?",
            "original_answer": "The answer is 2",
        },
        ["<image>", "How many?"],
        "2",
        needed=("image", "problem", "solution"),
        broken={"solution": ["2", "<answer> </answer>", None], "image": [NO_PICTURE]},
    ),
    Layout(
        "geoqa",
        {"image": PICTURE, "problem": "Find ∠A.", "solution": "<answer> 145° </answer>"},
        ["<image>", "Find ∠A."],
        "145°",
        needed=("image", "problem", "solution"),
        broken={"solution": ["145°"], "image": [NO_PICTURE]},
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
            "image": PICTURE,
            "domain": "commonsense",
            "topic": "physical-commonsense",
        },
        ["<image>", "Water is heavy.\nWhat floats?\nA. a stone\nB. a cork"],
        "B",
        id="physical-commonsense-1",
        needed=("id", "question", "choices", "answer", "image"),
        broken={"choices": [[], ["one"], None], "answer": ["C", None], "image": [NO_PICTURE]},
    ),
    Layout(
        "scienceqa",
        {
            "image": PICTURE,
            "question": "Which state is farthest north?",
            "choices": ["West Virginia", "Louisiana", "Arizona"],
            "answer": 0,
            "hint": "",
            "task": "closed choice",
            "grade": "grade2",
            "subject": "social science",
            "topic": "geography",
            "category": "Geography",
            "skill": "Read a map",
            "lecture": "Maps have four directions.",
            "solution": "West Virginia is.",
        },
        ["<image>", "Which state is farthest north?\nA. West Virginia\nB. Louisiana\nC. Arizona"],
        "A",
        needed=("image", "question", "choices", "answer"),
        broken={"choices": [[]], "answer": [3, -1, None], "image": [None]},
    ),
    Layout(
        "chartqa",
        {"image": PICTURE, "query": "How many bars?", "label": ["14"], "human_or_machine": 0},
        ["<image>", "How many bars?"],
        "14",
        needed=("image", "query", "label"),
        broken={"label": [[], ["1", "2"], [""], None], "image": [NO_PICTURE]},
    ),
    Layout(
        "clevr_math",
        {
            "template": "subtraction",
            "id": "CLEVR_train_000000.png",
            "question": "Subtract all cubes. How many objects are left?",
            "image": PICTURE,
            "label": 4,
        },
        ["<image>", "Subtract all cubes. How many objects are left?"],
        "4",
        needed=("question", "image", "label"),
        broken={"label": [None], "image": [NO_PICTURE]},
    ),
    Layout(
        "clevr_math",
        {
            "question": "Remove all spheres. How many objects are left?",
            "answer": 0,
            "image_filename": "CLEVR_train_000000.png",
            "split": "train",
            "template_filename": "subtraction.json",
        },
        ["<image>", "Remove all spheres. How many objects are left?"],
        "0",
        images=("CLEVR_v1.0/images/train/CLEVR_train_000000.png",),
        needed=("question", "answer", "split"),
        broken={"split": ["val"]},
        file="clevr-math-train.json",
        group="questions",
    ),
]
