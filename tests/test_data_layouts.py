"""The layouts of EasyR1, verl and TRL: each comes out as its own trainer would read it."""

import copy
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from trl.data_utils import prepare_multimodal_messages

from observe_r1.data import load_examples
from observe_r1.errors import UserError

TEXT = "Compare <image> with <image>: which is larger?"
PARTS = [
    {"type": "text", "text": "Compare "},
    {"type": "image"},
    {"type": "text", "text": " with "},
    {"type": "image"},
    {"type": "text", "text": ": which is larger?"},
]
VERL = {
    "data_source": "hiyouga/geometry3k",
    "prompt": [{"role": "user", "content": TEXT}],
    "images": [{"bytes": b"1st", "path": None}, {"bytes": None, "path": "b.png"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "3"},
    "extra_info": {"split": "train", "index": 0, "answer": "3", "question": TEXT},
}


RULE = "every <image> mark needs an image, every image a mark"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def only(tmp_path: Path, row: dict[str, Any], **options: Any) -> Any:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    return load_examples(path, **options)[0]


def refusal(tmp_path: Path, row: dict[str, Any], **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        only(tmp_path, row, **options)
    place = f"{tmp_path / 'a.jsonl'} row 1"
    assert str(caught.value).startswith(place) and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(place)


def test_easyr1(tmp_path):
    example = only(tmp_path, {"problem": TEXT, "answer": "the first", "images": ["a.png", "/b.png"]})
    assert example.messages == ({"role": "user", "content": PARTS},)
    assert example.images == (str(tmp_path / "a.png"), "/b.png") and example.answer == "the first"


def test_verl_as_parquet(tmp_path):
    datasets.Dataset.from_list([VERL]).to_parquet(tmp_path / "train.parquet")
    example = load_examples(tmp_path / "train.parquet", label_key="reward_model.ground_truth")[0]
    assert example.messages == ({"role": "user", "content": PARTS},)
    assert example.images == (b"1st", str(tmp_path / "b.png")) and example.answer == "3"
    with pytest.raises(UserError, match=r"no column 'answer': .*, reward_model\.style, reward_model\.ground_truth, "):
        load_examples(tmp_path / "train.parquet")


def test_verl_with_images_as_its_fetcher_takes_them(tmp_path):
    row = VERL | {"images": [{"image": "file:///a.png"}, {"image": "https://example.org/b.png"}]}
    assert only(tmp_path, row, label_key="extra_info.answer").images == ("/a.png", "https://example.org/b.png")


@pytest.mark.parametrize("column", ["image", "images"])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize(
    "prompt",
    [
        [{"role": "user", "content": "What is this?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is this?"}],
        [
            {"role": "user", "content": "First?"},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Now?"},
        ],
        [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "image"}]}],
    ],
)
def test_images_stand_where_trl_puts_them(tmp_path, prompt, count, column):
    images = [f"/{number}.png" for number in range(count)]
    row = {"prompt": prompt, "solution": "3", column: images[0] if column == "image" and count == 1 else images}
    try:
        expected = prepare_multimodal_messages(copy.deepcopy(prompt), images)
    except ValueError:
        assert "needs an image, every image a mark: 1 and " in refusal(tmp_path, row, label_key="solution")
        return
    example = only(tmp_path, row, label_key="solution")
    rest = iter(example.images)
    filled = [
        {**message, "content": [part | ({"image": next(rest)} if part["type"] == "image" else {}) for part in content]}
        for message in example.messages
        for content in [message["content"]]
    ]
    assert filled == expected and not list(rest) and example.answer == "3"


def test_trl_with_a_plain_text_prompt(tmp_path):
    example = only(tmp_path, {"prompt": "[1] is what?", "image": "/a.png", "answer": "a list"})
    assert example.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "[1] is what?"}]
    assert only(tmp_path, {"prompt": "What?", "image": None, "answer": "1"}).images == ()
    assert only(tmp_path, {"prompt": "What?", "image": "", "answer": "1"}).images == ()


def test_any_other_column_holds_a_chat_or_a_text(tmp_path):
    chat = [{"role": "user", "content": [{"type": "text", "text": "What?"}]}]
    for question in (chat, json.dumps(chat, indent=1), "What?"):
        example = only(tmp_path, {"q": {"x": question}, "gold": {"y": {"z": 7}}}, input_key="q.x", label_key="gold.y.z")
        assert list(example.messages) == chat and example.answer == "7"
    assert "trailing comma" in refusal(tmp_path, {"q": '[{"role": "user",}]', "answer": "1"}, input_key="q")


def test_message_comes_before_problem_and_prompt_and_holds_chats_only(tmp_path):
    chat = [{"role": "user", "content": "Which?"}]
    example = only(tmp_path, {"prompt": "no", "problem": "no", "message": json.dumps(chat), "answer": "1"})
    assert example.messages[0]["content"][0]["text"] == "Which?"
    for absent in ({"message": None}, {"message": None, "problem": None}, {}):
        row = {"prompt": "Which?", "answer": "1"} | absent
        assert only(tmp_path, row).messages[0]["content"][0]["text"] == "Which?"
    assert "not a chat" in refusal(tmp_path, {"message": "Which?", "answer": "1"})
    assert "'message': not a chat: needs a list of messages, got None" in refusal(tmp_path, {"message": None})


def test_a_column_named_with_a_dot_is_itself(tmp_path):
    assert only(tmp_path, {"problem": "What?", "a.b": "1", "a": {"b": "2"}}, label_key="a.b").answer == "1"
    assert "no column 'a.c'" in refusal(tmp_path, {"problem": "What?", "a": {"b": "2"}}, label_key="a.c")
    assert only(tmp_path, {"problem": "?", "a": {"b": None}}, label_key="a.b", require_answer=False).answer == ""


@pytest.mark.parametrize(
    ("text", "images", "counts"),
    [
        ("<image> and <image>", ["/a.png"], "2 and 1"),
        ("<image>", [], "1 and 0"),
        ("<image>", None, "1 and 0"),
        ("<image>", ["/a.png", "/b.png"], "1 and 2"),
    ],
)
def test_marks_and_images_of_different_number_are_named(tmp_path, text, images, counts):
    row = {"problem": text, "answer": "1"} | ({} if images is None else {"images": images})
    assert refusal(tmp_path, row).endswith(f", 'problem': {RULE}: {counts} in this row")


def test_a_chat_with_images_of_its_own_does_without_the_column(tmp_path):
    chat = [{"role": "user", "content": [{"type": "image", "image": "/a.png"}, {"type": "text", "text": "<image>"}]}]
    example = only(tmp_path, {"message": chat, "image": {"width": 3}, "answer": "1"})
    assert example.images == ("/a.png",) and example.messages[0]["content"][1]["text"] == "<image>"


def test_marks_outside_of_questions_are_text(tmp_path):
    turns = [("system", "An <image> is a mark."), ("user", "What?"), ("assistant", "An <image>.")]
    chat = [{"role": role, "content": text} for role, text in turns]
    example = only(tmp_path, {"prompt": chat, "images": ["/a.png"], "answer": "1"})
    assert example.messages[0]["content"] == [{"type": "text", "text": "An <image> is a mark."}]
    assert example.messages[1]["content"] == [{"type": "image"}, {"type": "text", "text": "What?"}]
    assert example.response == "An <image>."


def test_what_is_no_image_is_named_by_its_number(tmp_path):
    row = {"problem": "<image><image>", "images": ["/a.png", 5], "answer": "1"}
    assert refusal(tmp_path, row) == ", 'problem', image 2: an image needs a path, a URI or bytes, got 5"
