"""Recipes: packaged ones, ones that extend others, and files that are none."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parsing import parse

from observe_r1.cli.main import main
from observe_r1.cli.options import parse_settings
from observe_r1.config import SFTSettings, TrainSettings
from observe_r1.errors import UserError

RECIPES = Path(__file__).parents[2] / "observe_r1" / "recipes"


def test_options_override_a_recipe(recipe):
    path = recipe("model: {path: from_recipe}\noptimizer: {lr: 1e-4, minibatch: 4}\n")
    settings = parse_settings(TrainSettings, [path, "--data.path", "d", "--optimizer.lr", "1"], verb="train")
    assert settings.model.path == "from_recipe"
    assert (settings.optimizer.lr, settings.optimizer.minibatch) == (1.0, 4)


def test_config_names_the_recipe_too(recipe):
    assert parse("--config", recipe("run: {seed: 9}")).run.seed == 9


def test_an_empty_recipe_and_an_empty_section_state_nothing(recipe):
    assert parse(recipe("# nothing yet\n")) == parse()
    assert parse(recipe("optimizer:\n  # lr: 1\n")) == parse()


def test_extends_builds_on_another_recipe(recipe):
    recipe("optimizer: {lr: 1.0, minibatch: 4}\nrewards: {functions: {accuracy: 1, format: 1}}\n", "base.yaml")
    path = recipe("extends: base.yaml\noptimizer: {lr: 2.0}\nrewards: {functions: {accuracy: 3}}\n")
    settings = parse(path)
    assert (settings.optimizer.lr, settings.optimizer.minibatch) == (2.0, 4)
    assert settings.rewards.functions == {"accuracy": 3.0}  # a setting is replaced whole


def test_extends_is_relative_to_the_recipe(recipe, tmp_path):
    (tmp_path / "inner").mkdir()
    recipe("run: {seed: 3}", "base.yaml")
    assert parse(recipe("extends: ../base.yaml", "inner/child.yaml")).run.seed == 3


def test_a_section_of_sft_keeps_its_own_defaults_beside_one_stated_setting(recipe):
    path = recipe("optimizer: {lr: 0.003}\nrun: {seed: 1}\n")
    settings = parse(path, kind=SFTSettings, verb="sft")
    assert (settings.optimizer.lr, settings.optimizer.minibatch) == (0.003, 32)
    assert settings.run.output == "runs/sft"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n\tpath: x\n", r"recipe\.yaml: line 2, column 1: broken YAML: .*'\\t'"),
        ("a: [1\nb: 2\n", r"recipe\.yaml: line 2, column 2: broken YAML"),
        ("run: {seed: 1}\nrun: {steps: 1}\n", r"recipe\.yaml: line 2, column 1: duplicate key 'run'"),
        ("#\nmodel: a\x01b\n", r"recipe\.yaml: line 2: broken YAML: unacceptable character #x0001"),
        (
            "!!python/object/apply:os.getcwd []\n",
            "line 1, column 1: the tag !!python/object/apply:os.getcwd is not supported",
        ),
        ("- model\n", "a recipe holds sections"),
        ("objectiv: {bonus: 1}\n", r"unknown setting 'objectiv' \(did you mean 'objective'\?\)"),
        ("objective: {bonuss: 1}\n", r"unknown setting 'objective.bonuss' \(did you mean 'objective.bonus'\?\)"),
        ("objective: 3\n", "section 'objective' is 3; it should hold settings"),
        ("objective: {bonus: -1}\n", r"recipe\.yaml: objective.bonus = -1: should be greater"),
        ("run: {wandb: 123}\n", r"recipe\.yaml: run.wandb = 123: should be text"),
        ("extends: [a, b]\n", r"extends = \['a', 'b'\]: give one recipe: its path"),
        ("extends: gone.yaml\n", "extends = 'gone.yaml': no such file"),
        ("extends: recipe.yaml\n", "extends = 'recipe.yaml': these recipes extend each other in a circle"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line_that_names_the_file(recipe, text, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(recipe(text))
    assert "recipe.yaml: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_an_extended_recipe_names_that_file(recipe):
    recipe("run: {steps: 0}\n", "base.yaml")
    with pytest.raises(UserError, match=r"base\.yaml: run\.steps = 0"):
        parse(recipe("extends: base.yaml\n"))


def test_a_long_circle_of_recipes_ends(recipe):
    recipe("extends: c.yaml\n", "b.yaml")
    recipe("extends: a.yaml\n", "c.yaml")
    with pytest.raises(UserError, match=r"c\.yaml: extends = 'a\.yaml': these recipes extend each other in a circle"):
        parse(recipe("extends: b.yaml\n", "a.yaml"))


def test_only_one_recipe(recipe):
    with pytest.raises(UserError, match="there can be only one"):
        parse(recipe("{}", "a.yaml"), recipe("{}", "b.yaml"))


def test_a_recipe_that_is_no_text(tmp_path):
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"image\.yaml: line 1: not UTF-8 text"):
        parse(str(path))
    with pytest.raises(
        UserError, match=r": this is a folder, not a recipe; if it holds data, give it as --data\.path "
    ):
        parse(str(tmp_path))


@pytest.mark.parametrize("name", ["observe_r1", "tiny/grpo"])
def test_a_packaged_recipe_is_found_by_its_name_in_any_folder(name, tmp_path, monkeypatch):
    (tmp_path / "observe_r1").mkdir()  # what is in the working folder does not matter
    monkeypatch.chdir(tmp_path)
    there = parse(name)
    assert there == parse(str(RECIPES / f"{name}.yaml"))
    assert there != parse()


def test_a_recipe_may_extend_a_packaged_one_by_its_name(recipe):
    settings = parse(recipe("extends: grpo\nrun: {seed: 3}\n"))
    assert (settings.objective.bonus, settings.run.seed) == (0, 3)


@pytest.mark.parametrize(
    ("word", "hint"), [("recipes/grpo.yaml", "'grpo'"), ("grpo.yaml", "'grpo'"), ("observe_r", "'observe_r1'")]
)
def test_a_recipe_that_is_not_there_names_the_packaged_ones(word, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError,
        match=rf"did you mean {hint}\?\); packaged recipes for this command, .*: grpo, observe_r1, .*tiny/grpo",
    ):
        parse(word)


@pytest.mark.parametrize(
    ("verb", "name", "whose"),
    [("train", "tiny/ladder", "ladder build"), ("plan", "tiny/ladder", "ladder build"), ("sft", "grpo", "train"),
     ("ladder build", "observe_r1", "train"), ("evaluate", "grpo", "train"), ("train", "tiny/sft", "sft")],
)  # fmt: skip
def test_a_recipe_of_another_command_is_refused_with_its_name(verb, name, whose, recipe, capsys):
    words = [name, recipe(f"extends: {name}\n")]
    if name != "tiny/sft":  # a run has all settings of a warm start
        words += [f"{RECIPES / name}.yaml", recipe(f"extends: {RECIPES / name}.yaml\n", "other.yaml")]
    for word in words:
        assert main([*verb.split(), word]) == 2
        error = capsys.readouterr().err
        assert f"`observe-r1 {whose}`" in error and error.count("\n") == 1, error


@pytest.mark.parametrize(
    ("verb", "listed", "others"),
    [("train", "tiny/observe_r1", ["tiny/sft", "tiny/ladder"]), ("sft", "tiny/sft", ["grpo", "tiny/ladder"]),
     ("plan", "qwen2_5_vl_3b_24gb", ["tiny/sft", "tiny/ladder"])],
)  # fmt: skip
def test_help_lists_the_recipes_of_the_command_alone(verb, listed, others, capsys):
    assert main([verb, "--help"]) == 0
    about = " ".join(capsys.readouterr().out.partition("Examples:")[0].split())
    assert listed in about and not any(other in about for other in others)


def test_recipes_that_extend_each_other_without_end_are_refused(recipe):
    path = recipe("run: {seed: 7}\n", "0.yaml")
    for number in range(1, 18):
        path = recipe(f"extends: {number - 1}.yaml\n", f"{number}.yaml")
    assert parse(str(Path(path).with_name("15.yaml"))).run.seed == 7
    with pytest.raises(UserError, match=r"extends = '0\.yaml': the 17th recipe in a row; at most 16 may"):
        parse(path)


@pytest.mark.parametrize("name", ["x" * 300, '"a\\0b"', '"\\ud800"'])
def test_a_name_that_no_file_can_have_is_no_recipe(name, recipe):
    with pytest.raises(UserError, match="no such file"):
        parse(recipe(f"extends: {name}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {steps: 1:30}", r"run\.steps = '1:30': should be a whole number"),
        ("run: {steps: 010}", r"run\.steps = '010': should be a number without a leading zero"),
        ("run: {steps: true}", r"run\.steps = True: should be a number"),
        ("optimizer: {lr: yes}", r"optimizer\.lr = 'yes': should be a number"),
        ("optimizer: {betas: [0.9, true]}", r"optimizer\.betas = .*: should be a number"),
        ("rewards: {functions: {accuracy: true}}", r"rewards\.functions = .*|rewards\.functions: should be a number"),
        ("run: {steps: 3000000000}", r"run\.steps = 3000000000: should be at most 2147483647"),
        ("run: {epochs: 1e308}", r"run\.epochs = 1e\+308: should be less than or equal to 1000000"),
        ("run: {epochs: .inf}", r"run\.epochs = inf: should be a finite number"),
        ("run: {epochs: .nan}", r"run\.epochs = nan: should be a finite number"),
        ('run: {output: "a\\0b"}', r"run\.output = 'a\\x00b': contains a NUL byte"),
        ('rewards: {functions: {"a\\0.py": 1}}', "contains a NUL byte"),
        ('model: {path: "\\ud800"}', r"model\.path = '\\ud800': "),
        (f"data: {{path: a/{'x' * 256}}}", r"data\.path = .*: a name in it is longer than 255 bytes"),
        (f"rewards: {{functions: {{{'x' * 256}.py: 1}}}}", "a name in it is longer than 255 bytes"),
    ],
)
def test_a_value_that_is_not_what_it_seems_is_refused(text, message, recipe):
    with pytest.raises(UserError, match=message) as caught:
        parse(recipe(text))
    assert "recipe.yaml: " in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_and_switches_as_people_write_them(recipe):
    path = recipe("optimizer: {lr: 1e-6}\nrun: {wandb: no}\nrollout: {dynamic_sampling: on}\n")
    settings = parse(path)
    assert (settings.optimizer.lr, settings.run.wandb, settings.rollout.dynamic_sampling) == (1e-6, "no", True)


WORDS = ["run", "model", "extends", "steps", "epochs", "path", "vllm", "rollout", "functions", "rewards", "<<"]
WORDS += [
    "1e9",
    "010",
    "1:30",
    "yes",
    "~",
    ".inf",
    "2001-99-99",
    "!!int",
    "&a",
    "*a",
    "- ",
    "? ",
    ": ",
    ", ",
    "\n",
    "\n  ",
]
WORDS += ["{", "}", "[", "]", "'", '"', "|", ">", "%YAML 1.1", "---", "#", "\\U99999999", "\t", "\0", "9" * 400, "a: b"]


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=24).map(lambda words: "".join(words).encode())
)
def test_any_bytes_are_settings_or_one_line(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    try:
        parsed = parse(str(path))
    except UserError as error:
        assert "recipe" in str(error)
    else:
        assert isinstance(parsed, TrainSettings)
