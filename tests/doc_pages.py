"""The code blocks of the README and the docs, and how the commands of other programs are checked."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@dataclass(frozen=True)
class Block:
    """What is between two fences."""

    kind: str
    """After the opening fence: `bash`, `python`, `text`, …; `indented` where there is no fence."""
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page, as a parser of Markdown sees them, in order."""
    found = []
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            kind = token.info.strip() if token.type == "fence" else "indented"
            found.append(Block(kind, token.content, token.map[0] + 1))
    return found


def spans(page: Path) -> list[str]:
    """Return what is between backticks in the running text of a page, tables included."""
    parser = MarkdownIt("commonmark").enable("table")
    inline = [token for token in parser.parse(page.read_text(encoding="utf-8")) if token.type == "inline"]
    return [child.content for token in inline for child in token.children or () if child.type == "code_inline"]


@dataclass(frozen=True)
class Command:
    """One command line."""

    words: list[str]
    output: str | None = None
    """The file that its output goes into."""


def commands(text: str) -> list[Command]:
    """Return the commands of a shell block: one a line, where `\\` continues it, `#` begins a comment.

    Raises:
        ValueError: a line is more than one plain command: a pipe, a list, an expansion.
    """
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    if (checked.returncode, checked.stderr) != (0, ""):
        raise ValueError(f"bash cannot read this: {checked.stderr}\n{text}")
    found = []
    for line in filter(str.strip, text.replace("\\\n", " ").splitlines()):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += "$,^%+:@!"
        words = list(lexer)
        output = None
        if words[-2:-1] == [">"]:
            *words, _, output = words
        if any(re.fullmatch(r"[();<>|&]+", word) for word in words):
            raise ValueError(f"not one plain command: {line}")
        if words:
            found.append(Command(words, output))
    return found


def check_other(words: list[str]) -> None:
    """Check that another program would take this command; only parsers are run.

    Raises:
        AssertionError: it would not, or the program is unknown: add it to `checks`.
    """
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program = words[0].removeprefix(".venv/bin/")
    checks = {
        "make": _make,
        "python": _python,
        "python3": _python,
        "python3.12": _python,
        "pip": lambda words: _pip(words[1:]),
        "uv": _uv,
        "ray": _ray,
        "source": _source,
        "export": lambda words: None if all("=" in word for word in words[1:]) else _unknown(words),
        "docker": _docker,
        "mkdir": lambda words: None if words[1] == "-p" else _unknown(words),
        "vllm": _vllm,
        "mkdocs": lambda words: None if words[1:] == ["serve"] else _unknown(words),
    }
    if program.startswith("scripts/"):
        assert (ROOT / program).is_file(), f"there is no {program}"
        return
    checks.get(program, _unknown)([program, *words[1:]])


def _unknown(words: list[str]) -> None:
    raise AssertionError(f"tests/doc_pages.py does not know how to check: {shlex.join(words)}")


def _make(words: list[str]) -> None:
    asked = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr


def _python(words: list[str]) -> None:
    if words[1] == "-m":
        assert words[2] in ("venv", "pip"), words
        return _pip(words[3:]) if words[2] == "pip" else None
    assert (ROOT / words[1]).is_file(), f"there is no {words[1]}"
    taken = {
        node.args[0].value
        for node in ast.walk(ast.parse((ROOT / words[1]).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"
    }
    assert {word for word in words[2:] if word.startswith("--")} <= taken, f"{words[1]} takes {taken}"


def _installs(words: list[str]) -> None:
    """Extras exist, and so does the file of constraints."""
    for word in words:
        for extra in re.findall(r"^\.\[([\w,-]+)\]$", word):
            assert set(extra.split(",")) <= EXTRAS.keys(), f"{word}: no such extra"
    for option, value in pairwise(words):
        assert option not in ("-c", "--constraint", "--requirement") or (ROOT / value).is_file(), value


def _pip(words: list[str]) -> None:
    from pip._internal.commands import create_command

    create_command(words[0]).parse_args(words[1:])  # ends the process where it knows better
    _installs(words)


def _uv(words: list[str]) -> None:
    command = words[1:3] if words[1] == "pip" else words[1:2]
    shown = subprocess.run([sys.executable, "-m", "uv", *command, "--help"], capture_output=True, text=True, check=True)
    known = set(re.findall(r"--?[a-z][\w-]*", shown.stdout))
    options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert options <= known, f"uv {' '.join(command)} does not take {options - known}"
    _installs(words)


def _ray(words: list[str]) -> None:
    from ray.scripts.scripts import cli

    command = cli.get_command(None, words[1])
    assert command is not None, f"ray has no {words[1]}"
    command.make_context(words[1], words[2:])  # parses, and runs nothing


def _source(words: list[str]) -> None:
    assert words[1:] in ([".venv/bin/activate"], ["/shared/observe-r1/.venv/bin/activate"]), words


def _docker(words: list[str]) -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert words[1] in ("build", "run"), words
    if "--target" in words:
        assert re.search(rf"^FROM .* AS {words[words.index('--target') + 1]}$", text, re.MULTILINE), words
    for word, value in pairwise(words):
        assert word != "--build-arg" or re.search(rf"^ARG {value.partition('=')[0]}\b", text, re.MULTILINE), value


def _vllm(words: list[str]) -> None:
    """`vllm serve FOLDER`, with options that the engine's arguments name. vLLM itself is slow to import."""
    assert words[1] == "serve" and Path(words[2], "config.json").is_file(), words
    source = Path(find_spec("vllm").origin).with_name("engine") / "arg_utils.py"
    known = set(re.findall(r"^    (\w+):", source.read_text(encoding="utf-8"), re.MULTILINE))
    assert {word.removeprefix("--").replace("-", "_") for word in words[3:] if word.startswith("--")} <= known, words
