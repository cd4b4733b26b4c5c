"""What `from observe_r1 import …` offers. The Python of the pages runs in tests/docs/test_pages.py."""

import subprocess
import sys
from pathlib import Path

import pytest

import observe_r1
from observe_r1 import LadderSettings, RunSettings, TrainSettings, UserError, read_recipe


def test_every_name_can_be_imported():
    for name in observe_r1.__all__:
        assert getattr(observe_r1, name) is not None
    assert set(dir(observe_r1)) >= set(observe_r1.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        observe_r1.trian  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, observe_r1; print([name for name in ('torch', 'transformers', 'rich') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_options_lie_over_the_recipe_and_are_checked(tmp_path):
    places = {"model.path": "model", "data.path": "rows.jsonl"}
    settings = read_recipe("observe_r1", places | {"objective.bonus": 0.4, "rewards.functions": {"accuracy": 2.0}})
    assert isinstance(settings, TrainSettings)
    assert settings.objective.bonus == 0.4
    assert settings.rewards.functions == {"accuracy": 2.0}
    assert settings.data.format_prompt == "observe"  # the recipe's
    assert read_recipe("tiny/ladder", {"model.path": "model"}, LadderSettings).model.path == "model"
    with pytest.raises(UserError, match=r"unknown setting 'objective.bonsu' \(did you mean 'objective.bonus'\?\)"):
        read_recipe("observe_r1", places | {"objective.bonsu": 0.4})
    with pytest.raises(UserError, match=r"options: objective.bonus = -1"):
        read_recipe("observe_r1", places | {"objective.bonus": -1})
    with pytest.raises(UserError, match=r"options: 'model': name a setting with its section, as in 'model.path'"):
        read_recipe("observe_r1", {"model": {"path": "model"}, "data.path": "rows.jsonl"})
    Path(tmp_path / "bare.yaml").write_text("run: {steps: 1}")
    with pytest.raises(UserError, match=r"'data.path' is missing"):
        read_recipe(tmp_path / "bare.yaml", {"model.path": "model"})


@pytest.mark.parametrize(
    ("function", "kind"), [("train", "TrainSettings"), ("sft", "SFTSettings"), ("build_ladder", "LadderSettings")]
)
@pytest.mark.parametrize("wrong", ["observe_r1", {"model.path": "model"}, None, RunSettings()])
def test_anything_but_the_settings_is_one_line(function, kind, wrong):
    said = f"{function} takes {kind}, got {type(wrong).__name__}: read_recipe makes them"
    with pytest.raises(UserError, match=said):
        getattr(observe_r1, function)(wrong)
