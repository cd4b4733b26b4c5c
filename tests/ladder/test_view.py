"""What a build says while it works, whatever models are called and rows hold."""

from io import StringIO

import pytest
from rich.console import Console

from observe_r1.cli.main import main
from observe_r1.run.progress import Progress


def shown(terminal, *events):
    out = StringIO()
    with Progress("ladder build", console=Console(file=out, force_terminal=terminal, width=200)) as view:
        for name, *values in events:
            getattr(view, name)(*values)
    return out.getvalue(), view.line


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("model", ["runs/[v2]/model", "runs/[/v2]/model"])
def test_a_model_s_name_is_no_markup(terminal, model):
    text, line = shown(terminal, ("stage", f"screen with {model}", 3, 7))
    assert f"screen with {model}" in text and line == f"screen with {model}: 3 of 7 questions"


def test_notes_are_one_harmless_line():
    text, _ = shown(False, ("note", "skipped: \x1b[31m[bold]red\nobserve-r1: done\u202e"))
    assert text == "skipped: \ufffd[31m[bold]red\ufffdobserve-r1: done\ufffd\n"


def test_a_log_gets_the_last_line_of_every_stage():
    text, line = shown(False, *(("stage", "reading", count, None) for count in (64, 128)), ("stage", "x", 9, 9))
    assert text == "reading: 64 questions\nx: 9 of 9 questions\n" and line == "x: 9 of 9 questions"


@pytest.mark.parametrize("words", [["--output", "{}"], ["{}", "--output", "elsewhere"]])
def test_the_folder_of_a_ladder_is_a_word_of_its_own(tmp_path, capsys, words):
    (tmp_path / "ladder.yaml").write_text("")
    assert main(["ladder", "arrange", *(word.format(tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert "observe-r1 ladder arrange takes no '--output': name the folder alone" in error
