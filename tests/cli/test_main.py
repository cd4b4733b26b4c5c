"""The command's frame: verbs, exit codes, one line an error."""

import os
import subprocess
import sys
from types import ModuleType

import pytest

from observe_r1 import __version__
from observe_r1.cli import main as cli
from observe_r1.cli.commands import COMMANDS, Command
from observe_r1.config import Section, setting_names
from observe_r1.errors import UserError
from observe_r1.registry import resolve


def install_verb(monkeypatch, run):
    module = ModuleType("a_verb_for_tests")
    module.run = run
    monkeypatch.setitem(sys.modules, "a_verb_for_tests", module)
    monkeypatch.setitem(COMMANDS, "practise", Command("practise", "for tests", run="a_verb_for_tests:run"))


@pytest.mark.parametrize("command", [each for each in COMMANDS.values() if each.run], ids=lambda command: command.name)
def test_what_a_record_names_is_there(command):
    assert callable(resolve(command.run))
    if not command.settings:
        assert not (command.sections or command.short or command.openrlhf)
        return
    kind = resolve(command.settings)
    sections = command.sections or tuple(kind.model_fields)
    assert issubclass(kind, Section) and set(sections) <= set(kind.model_fields)
    known = {name for name in setting_names(kind) if name.partition(".")[0] in sections}
    assert {setting for settings in command.short.values() for setting in settings} <= known


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb(argv, capsys):
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    for command in COMMANDS.values():
        assert (f"  {command.name} " in out and command.summary in out) == (" " not in command.name)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"observe-r1 {__version__}\n"


def test_a_verb_gets_the_rest_of_the_words_and_gives_the_exit_code(monkeypatch):
    seen = []
    install_verb(monkeypatch, lambda argv: seen.append(argv) or 7)
    assert cli.main(["practise", "a.yaml", "--help"]) == 7
    assert seen == [["a.yaml", "--help"]]


def test_arguments_come_from_the_command_line_by_default(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["observe-r1", "--version"])
    assert cli.main() == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "meant"), [(["ladder", "buld"], "build"), (["data", "chek"], "check"), (["dat"], "data")]
)
def test_short_commands_are_recognised_too(words, meant, capsys):
    assert cli.main(words) == 2
    assert f"unknown command '{' '.join(words)}' (did you mean '{meant}'?)" in capsys.readouterr().err


def test_an_unknown_verb_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("observe-r1: error: unknown command 'trian' (did you mean 'train'?)")
    assert err.count("\n") == 1


def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys):
    def run(argv):
        raise UserError("rows.jsonl row 3: no answer")

    install_verb(monkeypatch, run)
    assert cli.main(["practise"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "observe-r1: error: rows.jsonl row 3: no answer\n"
    assert captured.out == ""


def test_an_interrupt_is_one_line_and_exit_code_130(monkeypatch, capsys):
    def run(argv):
        raise KeyboardInterrupt

    install_verb(monkeypatch, run)
    assert cli.main(["practise"]) == 130
    assert capsys.readouterr().err == "observe-r1: interrupted\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def run(argv):
        raise ZeroDivisionError("ours")

    install_verb(monkeypatch, run)
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.main(["practise"])


def test_a_reader_that_has_seen_enough_is_no_error():
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-c", "import sys; from observe_r1.cli.main import main; sys.exit(main(['--help']))"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")
