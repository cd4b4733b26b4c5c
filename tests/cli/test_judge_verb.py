"""`observe-r1 data judge`: how both answers are read, and why they are the same or not."""

import pytest

from observe_r1.cli.main import main


def judge(capsys, gold, answer):
    code = main(["data", "judge", f"--gold={gold}", f"--answer={answer}"])
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("gold", "answer", "code", "lines"),
    [
        ("\\frac{1}{2}", "<think>1</think><answer>0.5</answer>", 0, ["formula 1/2", "number 1/2", "right"]),
        ("5 cm", "50 mm", 0, ["quantity 5 centimeter", "quantity 50 millimeter", "right"]),
        ("B", "C. 12", 1, ["option B", "option C: 12", "wrong: option C: 12 is not option B"]),
        ("3", "3 or 4", 1, ["number 3", "several: number 3; number 4", "wrong"]),
        (
            "3",
            "?? !!",
            1,
            ["number 3", "read nothing: not an answer as a whole", "wrong: the answer cannot be read as a whole"],
        ),
        ("-5", "-5.0", 0, ["number -5", "right"]),
    ],
)
def test_readings_and_verdict(capsys, gold, answer, code, lines):
    found, printed = judge(capsys, gold, answer)
    assert found == code
    assert all(line in printed.out for line in lines), printed.out


def test_an_eaten_backslash_is_named(capsys):
    code, printed = judge(capsys, "\x0crac{1}{2}", "0.5")
    assert code == 2
    assert "in JSON write two backslashes" in printed.err and printed.err.count("\n") == 1


def test_hostile_text_is_printed_harmlessly(capsys):
    _, printed = judge(capsys, "3", "\x1b[31m\u202e3")
    assert "\x1b" not in printed.out and "\u202e" not in printed.out


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "judge", "--help"])
    assert stopped.value.code == 0
    assert "Example:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["data", "judge"], "the following arguments are required: --gold, --answer"),
        (["data", "judge", "--gol", "1", "--answer", "1"], "the following arguments are required: --gold"),
        (["ladder", "sources", "all"], "unrecognized arguments: all"),
        (["serve-rewards", "accuracy", "--port", "x"], "argument --port: invalid int value: 'x'"),
        (["demo", "--seed"], "argument --seed: expected one argument"),
    ],
)
def test_wrong_words_are_one_line_for_the_commands_without_settings_too(words, fault, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err == f"observe-r1: error: {fault}; --help lists all options\n"
