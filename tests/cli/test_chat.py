"""`observe-r1 chat`: the answer is the sampler's, drawn in colours that no answer can break out of."""

import io
import os
import signal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from observe_r1.cli.chat import ColouredAnswer
from observe_r1.cli.main import main
from observe_r1.config import ModelSettings, QuestionSettings
from observe_r1.data.examples import load_examples
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Sampling
from observe_r1.rollout.embedded import EmbeddedEngine

ANSWER = "<observe>a circle</observe> <think>1 < 2 [bold] </think> <answer>1</answer> over"


def drawn(pieces, *, colours=False):
    out = io.StringIO()
    answer = ColouredAnswer(
        Console(
            file=out, force_terminal=colours, color_system="standard" if colours else None, highlight=False, width=80
        )
    )
    for piece in pieces:
        answer.write(piece)
    answer.end()
    return out.getvalue()


@pytest.fixture(scope="module")
def picture(world):
    return next((world / "train" / "images").iterdir())


@pytest.fixture(scope="module")
def asked(world, picture):
    """Ask one question."""

    def ask(*options):
        return main(["chat", str(world / "warm" / "model"), "--image", str(picture), *options])

    return ask


def test_a_greedy_answer_is_the_sampler_s(world, asked, capsys):
    (first, *_) = load_examples(str(world / "train" / "train.jsonl"), "message", "answer")
    question = first.messages[-1]["content"][-1]["text"]
    assert main(["chat", str(world / "warm" / "model"), "--image", first.images[0], "--ask", question]) == 0
    printed, said = capsys.readouterr()
    vlm = load_model(ModelSettings(path=str(world / "warm" / "model"), device="cpu"), frozen=True)
    prompt = encode_prompt(first, vlm.processor, QuestionSettings())
    ((completion,),) = EmbeddedEngine(vlm).generate([prompt], Sampling(temperature=0, max_new_tokens=2048))
    assert printed.split() == completion.text.split()
    assert completion.finish == "stop" and "cut off" not in said


def test_questions_are_typed_until_the_input_ends(asked, picture, capsys, monkeypatch):
    typed = [
        "/image /nowhere.png",
        "/imagine",
        "<|image_pad|>",
        f"/image {picture}",
        "How many circles?",
        "/image",
        "and now?",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(typed)))
    assert asked("--chat.max_new_tokens", "4") == 0
    printed = capsys.readouterr()
    assert len(printed.out.strip().splitlines()) == 2
    assert printed.err.count("cut off after 4 tokens: --chat.max_new_tokens") == 2
    assert "/image: image '/nowhere.png': no such file" in printed.err
    assert "special token '<|image_pad|>'" in printed.err
    assert "/imagine is no command" in printed.err
    assert "shown: no image" in printed.err
    assert "Traceback" not in printed.err


def test_ctrl_c_stops_an_answer_and_not_the_chat(asked, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("How many?\nHow many now?\n"))
    draw = ColouredAnswer.write
    calls = []

    def interrupted(self, text):
        calls.append(text)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        draw(self, text)

    monkeypatch.setattr(ColouredAnswer, "write", interrupted)
    assert asked("--chat.max_new_tokens", "12") == 0
    printed = capsys.readouterr()
    assert printed.err.count("stopped") == 1
    assert len(printed.out.strip().splitlines()) == 2


def test_a_question_over_the_limit_is_told_in_words_of_a_chat(asked, capsys):
    assert asked("--ask", "how many circles? " * 9000) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the question: " in said and "tokens with its images, of 9,216 that a chat takes: shorten it" in said


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--image", "/nowhere.png"], "--image: image '/nowhere.png': no such file"),
        (["--image", __file__], "is not an image of a known format"),
        (["--image", "http://127.0.0.1:9/a.png"], "an address of a private network: download it and name the file"),
        (["--ask", ""], "chat.ask = '': should not be empty"),
        (["--temperature", "1e-300"], "should be 0, which takes the most probable token, or from 0.001 to 1000"),
        (["--temperature", "1e300"], "or from 0.001 to 1000"),
    ],
)
def test_what_cannot_be_asked_is_one_line_before_a_model_is_loaded(capsys, options, line):
    assert main(["chat", "/no/model", *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("observe-r1: error: ") and line in said and "data." not in said


@pytest.mark.parametrize("temperature", ["0.001", "1000"])
def test_every_temperature_that_is_taken_samples(asked, capsys, temperature):
    assert asked("--ask", "How many?", "--temperature", temperature, "--chat.max_new_tokens", "2") == 0
    assert "cut off after 2 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["chat"], "setting 'model.path' is missing: the command is `observe-r1 chat MODEL`"),
        (["chat", "MODEL", "more"], "unexpected 'more': observe-r1 chat takes one model; --help lists options"),
    ],
)
def test_words_are_one_model(capsys, words, line):
    assert main(words) == 2
    assert line in capsys.readouterr().err


def test_each_block_has_its_colour():
    printed = drawn([ANSWER], colours=True)
    assert "\x1b[36m<observe>" in printed and "\x1b[36ma circle" in printed
    assert "\x1b[33m1 < 2 [bold] " in printed
    assert "\x1b[1;32m1" in printed
    assert printed.endswith(" over\n")


@given(st.lists(st.integers(0, len(ANSWER)), max_size=30))
def test_it_does_not_matter_where_an_answer_is_cut(cuts):
    bounds = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[first:last] for first, last in pairwise(bounds)]
    assert drawn(pieces) == f"{ANSWER}\n"


@given(st.text(max_size=40))
def test_an_answer_draws_nothing_but_itself(text):
    printed = drawn(list(text))
    assert all(c.isprintable() or c in "\n\t" for c in printed)
    if text.isprintable():
        assert printed == f"{text}\n"
