"""The layouts of EasyR1, verl and TRL: each comes out as its own trainer would read it."""

import copy
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.data_utils import prepare_multimodal_messages

from observe_r1.data import load_examples
from observe_r1.data.examples import Examples
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


RULE = "every <image> mark needs an image, and every image a mark"


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
        assert "needs an image, and every image a mark: 1 marked and " in refusal(tmp_path, row, label_key="solution")
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


def test_the_question_may_stand_in_a_column_of_that_name(tmp_path):
    row = {"question": "<image>What?", "images": ["/a.png"], "answer": "1"}
    example = only(tmp_path, row)
    assert example.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "What?"}]
    assert only(tmp_path, row | {"problem": "<image>Which?"}).messages[0]["content"][1]["text"] == "Which?"
    assert only(tmp_path, row | {"problem": ""}).messages == example.messages


@pytest.mark.parametrize("column", ["message", "problem", "prompt", "messages", "conversations", "question"])
@pytest.mark.parametrize("value", ["", None])
def test_an_empty_question_is_not_called_a_missing_column(tmp_path, column, value):
    told = refusal(tmp_path, {column: value, "answer": 3})
    assert told == f", {column!r}: the question is empty: fill it in, or leave the row out"


@pytest.mark.parametrize("row", [{}, {"answer": None}, {"answer": ""}])
def test_a_demonstration_without_a_gold_answer_is_said_to_be_for_sft(tmp_path, row):
    chat = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    told = refusal(tmp_path, {"conversations": chat, **row})
    assert told == (
        ": no gold answer in 'answer': the row ends with an assistant turn, a demonstration for sft; train and ladder "
        "need a gold answer: write it into that column, or name another column with data.label_key"
    )
    assert only(tmp_path, {"conversations": chat, **row}, require_answer=False).response == "That."
    assert "(did you mean 'anwser'?)" in refusal(tmp_path, {"conversations": chat, "anwser": 1})


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
    assert "'message': not a chat: needs a list of messages, got 3" in refusal(tmp_path, {"message": 3})


def test_a_column_named_with_a_dot_is_itself(tmp_path):
    assert only(tmp_path, {"problem": "What?", "a.b": "1", "a": {"b": "2"}}, label_key="a.b").answer == "1"
    assert "no column 'a.c'" in refusal(tmp_path, {"problem": "What?", "a": {"b": "2"}}, label_key="a.c")
    assert only(tmp_path, {"problem": "?", "a": {"b": None}}, label_key="a.b", require_answer=False).answer == ""


@pytest.mark.parametrize(
    ("text", "images", "counts"),
    [
        ("<image> and <image>", ["/a.png"], "2 marked and 1 given"),
        ("<image>", [], "1 marked and 0 given"),
        ("<image>", None, "1 marked and 0 given"),
        ("<image>", ["/a.png", "/b.png"], "1 marked and 2 given"),
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


def test_llava(tmp_path):
    turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "Two."}]
    example = only(tmp_path, {"id": 5, "image": "a.png", "conversations": turns, "answer": "2"})
    assert example.images == (f"{tmp_path}/a.png",) and example.response == "Two."
    assert example.messages == (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nHow many?"}]},
    )
    turns[0]["from"] = "bing"
    message = refusal(tmp_path, {"image": "a.png", "conversations": turns, "answer": "2"})
    assert message == ", 'conversations', turn 1: from needs one of human, gpt, system, user, assistant, got 'bing'"


@pytest.mark.parametrize("url", ["https://example.org/a.png", "data:image/png;base64,AAAA"])
@pytest.mark.parametrize("form", [lambda url: url, lambda url: {"url": url, "detail": "high"}])
def test_openai(tmp_path, url, form):
    content = [{"type": "text", "text": "How many?"}, {"type": "image_url", "image_url": form(url)}]
    example = only(tmp_path, {"messages": [{"role": "user", "content": content}], "answer": "2"})
    assert example.images == (url,)
    assert example.messages[0]["content"] == [{"type": "text", "text": "How many?"}, {"type": "image"}]


def test_ms_swift(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>, <image>?"}]
    example = only(tmp_path, {"messages": turns, "images": ["a.png", {"path": "b.png"}], "answer": "2"})
    assert example.images == (f"{tmp_path}/a.png", f"{tmp_path}/b.png")


@pytest.mark.parametrize("key", ["image", "path", "url", "image_url", "bytes"])
def test_an_image_part_under_any_of_its_names(tmp_path, key):
    path = f"{tmp_path}/a.png"
    part = {"type": "image", key: path, **{name: None for name in ("path", "bytes") if name != key}}
    assert only(tmp_path, {"messages": [{"role": "user", "content": [part]}], "answer": "2"}).images == (path,)


def test_limits_of_single_images_stay_in_the_message(tmp_path):
    small, mark = {"max_pixels": 1000}, {"type": "image", "min_pixels": 10, "max_pixels": 20}
    content = [{"type": "image", "image": "a.png", **small}, {"type": "text", "text": "?"}]
    assert only(tmp_path, {"message": [{"role": "user", "content": content}], "answer": "2"}).messages[0][
        "content"
    ] == [
        {"type": "image", **small},
        {"type": "text", "text": "?"},
    ]
    row = {"messages": [{"role": "user", "content": [mark]}], "images": ["a.png"], "answer": "2"}
    assert only(tmp_path, row).messages[0]["content"] == [mark]
    for question in ("<image>?", "?"):
        row = {"problem": question, "images": [{"image": "a.png", **small}], "answer": "2"}
        assert only(tmp_path, row).messages[0]["content"][0] == {"type": "image", **small}
    mark["min_pixels"] = 21
    message = refusal(tmp_path, {"messages": [{"role": "user", "content": [mark]}], "images": ["a.png"], "answer": "2"})
    assert message == ", 'messages', turn 1: min_pixels = 21 is over max_pixels = 20: correct one of them"
    mark["min_pixels"] = "many"
    message = refusal(tmp_path, {"messages": [{"role": "user", "content": [mark]}], "images": ["a.png"], "answer": "2"})
    assert message.endswith("'min_pixels': needs a whole number of pixels, at least 1, got 'many'")


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"videos": ["a.mp4"]}, "'videos': the question may need this column, which is not read"),
        ({"audio": {"bytes": "…", "path": "a.wav"}}, "'audio': the question may need"),
        ({"audios": ["a.wav"]}, "'audios': the question may need"),
        ({"video_path": "a.mp4"}, "'video_path': the question may need"),
        ({"tools": [{"name": "search"}]}, "'tools': the question may need"),
        ({"objects": {"bbox": [[1, 2, 3, 4]]}}, "'objects': the question may need"),
        ({"image_1": "a.png"}, "'image_1': this image is not read: put all images into the column 'images'"),
        ({"image_path": "a.png"}, "'image_path': this image is not read"),
        ({"figure": "a.png"}, "'figure': this image is not read"),
        ({"scan": {"bytes": "…", "path": None}}, "'scan': this image is not read"),
        ({"choices": ["red", "blue"]}, "'choices': 'red' is not in the question, and this column is not read"),
        ({"options": {"A": "What?", "B": "blue"}}, "'options': 'blue' is not in the question"),
        ({"choices": [7, 8.0]}, "'choices': '7' is not in the question"),
        ({"options": {"A": 30, "B": 45.5}}, "'options': '30' is not in the question"),
        ({"choices": {"text": ["What", "blue"], "label": ["A"]}}, "'choices': 'blue' is not in the question"),
        ({"choices": ["hat"]}, "'choices': 'hat' is not in the question"),
        ({"choices": ["What"]}, "'choices': the gold answer '1' is none of these, and the question gives"),
        ({"system": "Answer in French."}, "'system': 'Answer in French.' is not in the question"),
    ],
)
def test_columns_that_the_question_may_need_are_refused(tmp_path, columns, named):
    message = refusal(tmp_path, {"problem": "What?", "answer": "1", **columns})
    assert message.startswith(f", {named}")
    empty = {name: type(value)() for name, value in columns.items()}
    assert only(tmp_path, {"problem": "What?", "answer": "1", **empty}).answer == "1"


def test_columns_are_kept_that_rewards_ask_for(tmp_path):
    row = {"problem": "What?", "answer": "1", "choices": [7, 8], "meta": {"level": 3, "seen": None}, "other": 1}
    kept = only(tmp_path, row, columns=("choices", "meta.level", "meta"))
    assert kept.columns == {"choices": [7, 8], "meta.level": 3, "meta": {"level": 3, "seen": None}}
    del row["choices"]
    message = refusal(tmp_path, row, columns=("othr",))
    assert message.startswith(": no column 'othr'") and message.endswith("set data.columns")
    table = pa.table({"problem": ["?"], "answer": ["1"], "when": [datetime(2026, 1, 1)]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"a.parquet row 1, 'when': data.columns needs what JSON can hold: text, .* got"
    ):
        load_examples(tmp_path / "a.parquet", columns=("when",))


def test_columns_that_no_question_needs_are_left_alone(tmp_path):
    metadata = {"id": "7", "source": "x", "metadata": {"videos": 1}, "level": 3, "image_id": "12", "num_images": 1}
    metadata |= {"image_path": "a.png", "data_source": "geo3k", "extra_info": {"split": "train"}, "choices": ["red"]}
    assert only(tmp_path, {"problem": "<image>red?", "images": ["a.png"], "answer": "red", **metadata}).id == "7"


@pytest.mark.parametrize(
    ("question", "columns"),
    [
        ("Is it hot or cold?", {"choices": ["hot", "cold"], "answer": "cold"}),
        ("Is it (A) hot (B) cold?", {"options": {"A": "hot", "B": "cold"}, "answer": "B"}),
        ("Which? (A)7(B)8.0", {"options": {"A": "(A)7", "B": "(B)8.0"}, "answer": "A"}),
        ("Which? 1. 30 2. 45.5", {"choices": [30.0, 45.5], "answer": 2}),
        ("Is it 30 or 45?", {"choices": {"text": ["30", "45"]}, "answer": 45}),
        ("是红色还是蓝色？", {"choices": ["红色", "蓝色"], "answer": "蓝色"}),
        ("Find x.", {"choices": ["2 \\sqrt { 3 }", "3"], "answer": "3", "id": 7, "ground_truth": "B"}),  # geometry3k's
        ("Which?", {"choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answer": "blue"}),
        ("Is it 3/4 or 1/4?", {"choices": ["3/4", "1/4"], "answer": "0.75"}),
    ],
)
def test_options_that_the_question_has_or_does_not_need(tmp_path, question, columns):
    assert only(tmp_path, {"problem": question, **columns}).answer == str(columns["answer"])


@pytest.mark.parametrize(
    ("turn", "named"),
    [
        ({"role": "user", "content": "?", "tool_calls": [{"id": 1}]}, "'tool_calls': this key of a turn is not read"),
        (
            {"role": "user", "content": [{"type": "image", "image": "a.png", "crop": [1]}]},
            "'crop': this key of an image",
        ),
        ({"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, "unknown content type: known are 'text'"),
        ({"role": "user", "content": [{"type": "input_audio", "data": "…"}]}, "unknown content type: known are 'text'"),
    ],
)
def test_parts_and_keys_of_turns_that_are_not_read_are_refused(tmp_path, turn, named):
    assert named in refusal(tmp_path, {"messages": [turn], "answer": "1"})


@pytest.mark.parametrize("column", ["message", "messages", "prompt"])
def test_a_chat_that_str_wrote(tmp_path, column):
    text = str([{"role": "user", "content": "How many?"}])
    assert "a Python list as str() writes it" in refusal(tmp_path, {column: text, "answer": "1"})


def test_a_chat_with_raw_line_breaks_in_its_string(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        '[\n  {\n    "message":"[\n      {\\"role\\": \\"user\\", \\"content\\": \\"?\\"}\n    ]",\n"answer": "3"}]'
    )
    with pytest.raises(UserError) as caught:
        load_examples(path)
    reason = "the string holds raw line breaks: write each as \\n, as json.dumps does"
    assert str(caught.value) == f"{path}: line 3, column 17: broken JSON: {reason}"
    inner = '[{"role": "user", "content": "two\nlines"}]'
    assert "the string holds raw line breaks" in refusal(tmp_path, {"message": inner, "answer": "3"})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["message", "problem", "messages", "conversations", "images", "image", "videos", "options", "id", "difficulty"]
PIECES = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "image_url"])},
    optional={key: ANYTHING | st.just("a.png") for key in ("text", "image", "image_url", "url", "min_pixels")},
)
SPEECH = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": st.sampled_from(["<image>?", "?"]) | st.lists(PIECES, max_size=3),
        "from": st.sampled_from(["human", "gpt"]),
        "value": st.sampled_from(["<image>?", "?"]),
        "tools": ANYTHING,
    },
)
ROWS = st.dictionaries(st.sampled_from([*KEYS, "answer", "image_2"]), ANYTHING | st.lists(SPEECH, max_size=3))


@given(ROWS | ANYTHING)
def test_any_row_is_an_example_or_one_line(row):
    examples = Examples([row], "a.jsonl", Path("/data"), "message", "answer", require_answer=True)
    try:
        example = examples[0]
    except UserError as error:
        assert str(error).startswith("a.jsonl row 1") and "\n" not in str(error)
    else:
        parts = [part for message in example.messages for part in message["content"]]
        assert sum(part["type"] == "image" for part in parts) == len(example.images)
