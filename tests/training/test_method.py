"""docs/method.md: what it names exists, and everything that is registered or public in the objective is in it."""

import inspect
import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

from observe_r1 import objective, registry
from observe_r1.config import TrainSettings, setting_names, validate
from observe_r1.objective import advantages, loss
from observe_r1.training import loop

PAGE = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
SETTINGS = {
    "estimator": "objective.estimator",
    "kl estimator": "objective.kl_estimator",
    "aggregation": "objective.aggregation",
}


def named(cell):
    """The function of a row's last cell."""
    file, function = re.fullmatch(r"`([\w/]+)\.py` `([\w.]+)`", cell).groups()
    return attrgetter(function)(import_module("observe_r1." + file.replace("/", ".")))


def test_the_table_has_four_cells_a_row():
    assert len(ROWS) > 20 and {len(row) for row in ROWS} == {4}


@pytest.mark.parametrize("row", ROWS, ids=[row[-1].replace("`", "") for row in ROWS])
def test_functions_exist_where_they_are_named_and_settings_too(row):
    function = named(row[3])
    file = inspect.getsourcefile(function)
    assert file.endswith(row[3].split("`")[1]), "the row names a file that only imports it"
    names = setting_names(TrainSettings)
    for setting in re.findall(r"`([a-z]+\.[^`]*)`", row[2]):
        key, _, value = setting.partition(": ")
        assert key in names
        if value:
            section, leaf = key.split(".")
            validate(TrainSettings, {"model": {"path": "m"}, "data": {"path": "d"}, section: {leaf: value}}, "page")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in SETTINGS for name in registry.REGISTRY[kind]])
def test_everything_registered_has_its_row(kind, name):
    (row,) = [row for row in ROWS if f"`{SETTINGS[kind]}: {name}`" in row[2]]
    assert named(row[3]) is registry.load(kind, name)


@pytest.mark.parametrize("module", [advantages, loss])
def test_every_public_function_of_the_objective_has_its_row_and_can_be_imported_from_the_room(module):
    functions = inspect.getmembers(module, inspect.isfunction)
    public = {name for name, each in functions if each.__module__ == module.__name__ and name[0] != "_"}
    assert public and public <= {row[3].split("`")[3] for row in ROWS}
    assert public <= set(objective.__all__)


def test_the_loop_s_map_names_functions_that_exist_and_all_of_the_method():
    names = set(re.findall(r"`(?:objective\.)?([a-z_0-9]+)`", loop.__doc__))
    unnamed = {"group_advantages", "kl_to_go"}  # each is the body of one that is named
    assert set(objective.__all__) - unnamed == names
