"""Data that training cannot use: `observe-r1 train` answers in one line, with exit code 2, and writes no model."""

import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from observe_r1.cli.main import main
from observe_r1.demo.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def answer_of_train(model: Path, folder: Path, data: str, capsys, *options: str) -> str:
    """Train on the row(s) in `a.json`; return the error that comes."""
    (folder / "a.json").write_text(data)
    small = {"rollout.prompts": 2, "rollout.group_size": 2, "optimizer.minibatch": 2, "rollout.max_new_tokens": 4}
    words = [f"--model.path={model}", f"--data.path={folder / 'a.json'}", f"--run.output={folder / 'run'}"]
    words += [f"--{name}={value}" for name, value in small.items()]
    code = main(["train", *words, "--model.device=cpu", "--run.threads=1", "--run.steps=1", *options])
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 2 and not (folder / "run" / "model").exists()
    prefix = "observe-r1: error: "
    assert error.startswith(prefix)
    return error.removeprefix(prefix).replace(f"{folder}/", "")


def question(image: str = "a.png", **columns) -> dict:
    return {"problem": "<image>How many?", "images": [image], "answer": "1", **columns}


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b"<html><body>403 Forbidden</body></html>", "is an HTML page (a download that failed?)"),
        (bomb(), "has more than 89,478,485 pixels: shrink it"),
        (b"\x89PNG\r\n\x1a\n and no more", "is not an image of a known format"),
    ],
    ids=["zero bytes", "HTML page", "bomb", "broken"],
)
def test_an_image_that_is_none(model, tmp_path, capsys, content, message):
    (tmp_path / "a.png").write_bytes(content)
    error = answer_of_train(model, tmp_path, json.dumps([question()]), capsys)
    assert error.startswith(f"a.json row 1: image 'a.png' {message}")


def test_an_image_behind_an_address_that_does_not_answer(model, tmp_path, capsys):
    data = json.dumps([question("http://a..b/1.png")])
    error = answer_of_train(model, tmp_path, data, capsys, f"--data.image_cache={tmp_path / 'cache'}")
    assert error.startswith("a.json row 1: image 'http://a..b/1.png' cannot be fetched: ")
    assert not (tmp_path / "cache").exists()


TURN = {"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}
RULE = "every <image> mark needs an image, and every image a mark"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"message": [TURN], "answer": "1"},
            "'message', turn 1: unknown content type: known are 'text', 'image' and 'image_url', got 'video'",
        ),
        (question(images=[]), f"'problem': {RULE}: 1 marked and 0 given in this row"),
        (question(images=["a.png", "a.png"]), f"'problem': {RULE}: 1 marked and 2 given in this row"),
        (question(answer=[1]), "'answer': the gold answer needs text or a finite number, got [1]"),
    ],
    ids=["unknown content type", "more marks", "more images", "no gold answer"],
)
def test_a_row_that_is_no_question(model, tmp_path, capsys, row, message):
    good = {"problem": "How many?", "answer": "1"}
    error = answer_of_train(model, tmp_path, json.dumps([good, row]), capsys)
    assert error == f"a.json row 2, {message}"


def test_a_gold_answer_that_cannot_be_parsed(model, tmp_path, capsys):
    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    error = answer_of_train(model, tmp_path, json.dumps([question(answer="\\frac{1}{")]), capsys)
    assert error.startswith("a.json row 1: the gold answer '\\\\frac{1}{' cannot be verified: ")


def test_broken_json_with_a_trailing_comma(model, tmp_path, capsys):
    error = answer_of_train(model, tmp_path, '[\n {"problem": "How many?", "answer": "1"},\n]\n', capsys)
    assert error == "a.json: line 3, column 1: broken JSON: trailing comma before ']': remove it"


@pytest.mark.parametrize(
    ("probs", "message"),
    [("0.5", "needs one probability per file, got 1 for 2"), ("0.5,0.4", "must sum to 1, sums to 0.9")],
)
def test_probabilities_that_do_not_fit(model, tmp_path, capsys, probs, message):
    both = f"--data.path={tmp_path / 'a.json'},{tmp_path / 'a.json'}"
    error = answer_of_train(model, tmp_path, json.dumps([question()]), capsys, both, f"--data.probs={probs}")
    assert error == f"data.probs = {probs}: {message}"
