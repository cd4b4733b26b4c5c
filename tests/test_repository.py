"""What holds for the repository as a whole."""

import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from conftest import SLOW
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from observe_r1 import registry
from observe_r1.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("observe_r1", "tests", "benchmarks", "scripts", "docs")
    for path in (ROOT / folder).rglob("*.py")
)
MODULES_AFTER = "import sys; from observe_r1.cli.main import main\ntry: main({words!r})\nfinally: print(*sys.modules)"


def modules_after(*words):
    command = [sys.executable, "-c", MODULES_AFTER.format(words=words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_no_file_is_longer_than_400_lines():
    lengths = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert "observe_r1/cli/main.py" in lengths
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_slow_files_are_named_as_they_are_called():
    assert {name for name in SLOW if not (ROOT / "tests" / f"{name}.py").exists()} == set()


def test_contributing_lists_the_rooms_in_the_order_that_is_enforced():
    block = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    *rooms, rest = block.splitlines()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    enforced = [name.strip("()") for layer in layers for name in layer.split(" | ")]
    assert [*(line.split()[0] for line in rooms), *rest.split(", ")] == enforced


def test_each_extra_and_what_it_needs_has_an_exact_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = {pin.name: pin for pin in map(Requirement, (ROOT / "constraints.txt").read_text().splitlines()[1:])}
    needs = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    for need in map(Requirement, needs):
        (exact,) = pins[canonicalize_name(need.name)].specifier
        assert exact.operator == "==" and need.specifier.contains(exact.version), need


def test_help_of_the_command_imports_nothing_heavy():
    modules = modules_after("--help")
    assert "observe_r1.cli.main" in modules
    assert not modules & {"torch", "transformers", "pydantic", "numpy", "yaml", "rich", "PIL"}


@pytest.mark.parametrize("verb", [name for name in COMMANDS if " " not in name])
def test_help_of_a_verb_imports_nothing_heavy(verb):
    assert not modules_after(verb, "--help") & {"torch", "transformers", "datasets", "sympy", "matplotlib"}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in registry.REGISTRY.items() for name in names]
)
def test_every_registered_name_stands_for_something(kind, name):
    assert registry.load(kind, name) is not None
