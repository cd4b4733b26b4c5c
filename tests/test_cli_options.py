"""From a command line to settings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observe_r1.cli.options import parse_settings
from observe_r1.config import SFTSettings, TrainSettings, setting_names
from observe_r1.errors import UserError

REQUIRED = ["--model.path", "m", "--data.path", "d"]


def parse(*argv, kind=TrainSettings, verb="train"):
    return parse_settings(kind, [*REQUIRED, *argv], verb=verb)


@pytest.fixture
def recipe(tmp_path):
    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


# Options


def test_without_options_everything_is_at_its_default():
    assert parse() == TrainSettings(model={"path": "m"}, data={"path": "d"})


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--objective.bonus", "0.3"], 0.3),
        (["--objective.bonus=0.3"], 0.3),
        (["--objective.bonus=.3"], 0.3),
        (["--objective.bonus", "1", "--objective.bonus", "0.3"], 0.3),
        (["--objective.bonus", "3e-1"], 0.3),
    ],
)
def test_an_option_sets_a_number(argv, value):
    assert parse(*argv).objective.bonus == value


def test_a_number_that_yaml_takes_for_text_is_a_number():
    assert parse("--optimizer.lr", "1e-6").optimizer.lr == 1e-6


@pytest.mark.parametrize("words", [["true"], ["yes"], ["1"], []])
def test_a_switch_is_on(words):
    assert parse("--rollout.dynamic_sampling", *words).rollout.dynamic_sampling is True


@pytest.mark.parametrize("words", [["false"], ["no"], ["0"]])
def test_a_switch_is_off(words):
    assert parse("--objective.dynamic_weight", *words).objective.dynamic_weight is False


def test_a_bare_switch_leaves_the_recipe_behind_it_alone(recipe):
    path = recipe("run: {seed: 5}")
    settings = parse("--rollout.dynamic_sampling", path)
    assert (settings.rollout.dynamic_sampling, settings.run.seed) == (True, 5)


@pytest.mark.parametrize("text", ["123", "true", "1e-6", "a: b", "[x]", "{x}", "~", "", " a "])
def test_text_stays_text(text):
    assert parse(f"--run.wandb={text}").run.wandb == text


def test_null_unsets_an_optional_setting(recipe):
    path = recipe("run: {wandb: project, steps: 3}")
    run = parse(path, "--run.wandb", "null", "--run.steps=null").run
    assert (run.wandb, run.steps) == (None, None)


@pytest.mark.parametrize("text", [".9,.99", "0.9, 0.99", "[0.9, 0.99]", "[.9, 99e-2]"])
def test_a_list(text):
    assert parse("--optimizer.betas", text).optimizer.betas == (0.9, 0.99)


def test_lists_of_text():
    assert parse("--model.freeze", "model.visual,lm_head").model.freeze == ("model.visual", "lm_head")
    assert parse("--rollout.stop", '["a, b", "]"]').rollout.stop == ("a, b", "]")
    assert parse("--rollout.stop=").rollout.stop == ()


@pytest.mark.parametrize("text", ["accuracy=2,format=.5", "{accuracy: 2, format: 0.5}", "accuracy = 2, format = 0.5"])
def test_a_mapping(text):
    assert parse("--rewards.functions", text).rewards.functions == {"accuracy": 2.0, "format": 0.5}


def test_dashes_may_stand_for_underscores():
    assert parse("--rollout.group-size", "4").rollout.group_size == 4


def test_a_negative_value_reaches_validation():
    with pytest.raises(UserError, match=r"objective\.bonus = '-1': .* greater than or equal to 0"):
        parse("--objective.bonus", "-1")


@settings(deadline=None)
@given(
    lr=st.floats(min_value=1e-30, max_value=1e3),
    seed=st.integers(0, 10**9 - 1),
    output=st.text(),
    betas=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    checkpointing=st.booleans(),
)
def test_every_value_survives_the_command_line(lr, seed, output, betas, checkpointing):
    parsed = parse(
        f"--optimizer.lr={lr!r}",
        f"--run.seed={seed}",
        f"--run.output={output}",
        f"--optimizer.betas={betas[0]!r},{betas[1]!r}",
        f"--model.gradient_checkpointing={checkpointing}",
    )
    assert parsed.optimizer.lr == lr
    assert parsed.run.seed == seed
    assert parsed.run.output == output
    assert parsed.optimizer.betas == betas
    assert parsed.model.gradient_checkpointing is checkpointing


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--objective.bonuss", "1"], r"unknown option '--objective.bonuss' \(did you mean '--objective.bonus'\?\)"),
        (["--lr", "1"], r"unknown option '--lr' \(did you mean '--optimizer.lr'\?\)"),
        (["--promt_data", "x"], r"did you mean '--prompt_data'\?"),
        (["--zzzzzzzzzz", "x"], "unknown option '--zzzzzzzzzz'; --help lists them all"),
        (["-x"], "unknown option '-x'"),
        (["--optimizer.lr"], "option '--optimizer.lr' needs a value"),
        (["--optimizer.lr", "--run.seed", "1"], "option '--optimizer.lr' needs a value"),
        (["--optimizer.lr", "fast"], "optimizer.lr = 'fast': Input should be a valid number"),
        (["--model.dtype", "float16"], "model.dtype = 'float16': Input should be 'float32' or 'bfloat16'"),
        (["--objective.estimator", "gae"], "gae needs a critic"),
        (["--rewards.functions", "accuracy"], "--rewards.functions = 'accuracy': write it as name=value"),
        (["--rollout.stop", "[a"], r"--rollout.stop = '\[a': line 1, column 3: broken YAML"),
        (["--objective.importance_cap", "2"], "importance_cap needs objective.old_logprobs: policy"),
        (["no/such.yaml"], "no recipe 'no/such.yaml'"),
        (["--config"], "option '--config' needs a value"),
    ],
)
def test_a_mistake_is_one_line(argv, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["model.path", "data.path"])
def test_what_nothing_states_is_named_with_the_fix(missing):
    other = next(name for name in ("model.path", "data.path") if name != missing)
    with pytest.raises(UserError, match=f"setting '{missing}' is missing: .* --{missing}"):
        parse_settings(TrainSettings, [f"--{other}", "x"], verb="train")


# Recipes


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
        ("run: {seed: 1}\nrun: {steps: 1}\n", r"recipe\.yaml: line 2, column 1: broken YAML: 'run' stands twice"),
        ("model: a\x01b\n", r"recipe\.yaml: broken YAML: unacceptable character #x0001"),
        ("!!python/object/apply:os.getcwd []\n", "line 1, column 1: broken YAML: could not determine a constructor"),
        ("- model\n", "a recipe holds sections"),
        ("objectiv: {bonus: 1}\n", r"unknown setting 'objectiv' \(did you mean 'objective'\?\)"),
        ("objective: {bonuss: 1}\n", r"unknown setting 'objective.bonuss' \(did you mean 'objective.bonus'\?\)"),
        ("objective: 3\n", "section 'objective' holds 3; it should hold settings"),
        ("objective: {bonus: -1}\n", r"recipe\.yaml: objective.bonus = -1: Input should be greater"),
        ("run: {wandb: 123}\n", r"recipe\.yaml: run.wandb = 123: Input should be a valid string"),
        ("extends: [a, b]\n", r"extends = \['a', 'b'\]: it should be the path of one recipe"),
        ("extends: gone.yaml\n", "extends = 'gone.yaml': no such file"),
        ("extends: recipe.yaml\n", "extends = 'recipe.yaml': recipes that extend each other never end"),
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
    with pytest.raises(UserError, match=r"c\.yaml: extends = 'a\.yaml': recipes that extend each other"):
        parse(recipe("extends: b.yaml\n", "a.yaml"))


def test_only_one_recipe(recipe):
    with pytest.raises(UserError, match="there can be only one"):
        parse(recipe("{}", "a.yaml"), recipe("{}", "b.yaml"))


def test_a_recipe_that_is_no_text(tmp_path):
    path = tmp_path / "picture.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"picture\.yaml: not UTF-8 text"):
        parse(str(path))
    with pytest.raises(UserError, match=r"cannot read recipe .*: Is a directory"):
        parse(str(tmp_path))


def test_a_recipe_by_its_bare_name_is_found_by_the_error(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "grpo.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for name in ("grpo", "grpo.yaml"):
        with pytest.raises(UserError, match=r"did you mean 'recipes/grpo\.yaml'"):
            parse(name)


# Help


@pytest.mark.parametrize(("kind", "verb"), [(TrainSettings, "train"), (SFTSettings, "sft")])
def test_help_explains_every_setting_within_100_columns(kind, verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    with pytest.raises(SystemExit) as caught:
        parse_settings(kind, ["nothing.yaml", "--help"], verb=verb)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    flowing = " ".join(text.split())
    for name, info in setting_names(kind).items():
        assert f"--{name} " in flowing
        assert " ".join(info.description.split()) in flowing


def test_help_tells_type_default_and_bounds(capsys):
    with pytest.raises(SystemExit):
        parse_settings(TrainSettings, ["-h"], verb="train")
    text = capsys.readouterr().out
    for line in (
        "--model.path TEXT  (required)",
        "--model.dtype float32|bfloat16  (default float32)",
        "--rollout.top_p NUMBER  (default 1.0, > 0, ≤ 1)",
        "--rollout.dynamic_sampling true|false  (default false)",
        "--rewards.functions NAME=NUMBER,…  (default accuracy=1,format=1)",
        "--objective.estimator group_norm|dr_grpo|rloo|reinforce_baseline  (default group_norm)",
        "--optimizer.betas NUMBER,NUMBER  (default 0.9,0.95)",
        "--run.steps INTEGER  (default null, ≥ 1)",
    ):
        assert f"  {line}\n" in text


def test_help_of_sft_has_its_own_defaults_and_leaves_out_what_it_has_not(capsys):
    with pytest.raises(SystemExit):
        parse_settings(SFTSettings, ["-h"], verb="sft")
    text = capsys.readouterr().out
    assert "--optimizer.minibatch INTEGER  (default 32, ≥ 1)" in text
    assert "--run.output TEXT  (default runs/sft)" in text
    assert "--dataset_probs" in text
    assert "--use_bonus" not in text


def test_every_setting_chosen_from_a_registry_lists_its_names(capsys):
    from observe_r1.cli.help import _REGISTRIES
    from observe_r1.registry import REGISTRY

    with pytest.raises(SystemExit):
        parse_settings(TrainSettings, ["-h"], verb="train")
    text = capsys.readouterr().out
    for name, info in setting_names(TrainSettings).items():
        validators = [getattr(part, "func", None) for part in info.metadata]
        chosen = any(getattr(each, "__qualname__", "").startswith("registered") for each in validators)
        assert chosen == (name in _REGISTRIES)
        if chosen:
            assert f"--{name} {'|'.join(REGISTRY[_REGISTRIES[name]])} " in text
