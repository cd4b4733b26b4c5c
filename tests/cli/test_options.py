"""From a command line to settings."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsing import parse

from observe_r1.cli import words
from observe_r1.cli.main import main
from observe_r1.cli.openrlhf.flags import FLAGS
from observe_r1.cli.options import parse_settings
from observe_r1.config import EvaluateSettings, LadderSettings, SFTSettings, TrainSettings, idle, setting_names
from observe_r1.errors import UserError

# Options


def test_names_of_other_trainers_are_told_as_settings_that_exist():
    assert set(words._ELSEWHERE.values()) <= setting_names(TrainSettings).keys()
    assert not words._ELSEWHERE.keys() & FLAGS.keys()
    assert parse("--learning_rate", "1e-4").optimizer.lr == 1e-4  # also OpenRLHF's name


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


@pytest.mark.parametrize("text", ["123", "true", "1e-6", "a: b", "[x]", "{x}", "~", " a "])
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
    output=st.text(st.characters(exclude_characters="\0~", exclude_categories=["Cs"]), max_size=60),
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
        (["--max_steps", "2"], r"unknown option '--max_steps' \(did you mean '--run.steps'\?\)"),
        (["--per_device_train_batch_size", "4"], r"\(did you mean '--optimizer.minibatch'\?\)"),
        (["--num_train_epochs=1"], r"\(did you mean '--run.epochs'\?\)"),
        (["--rewards.functions", "acuracy=1"], r"rewards\.functions\.acuracy = 'acuracy': unknown reward"),
        (["--promt_data", "x"], r"did you mean '--prompt_data'\?"),
        (["--zzzzzzzzzz", "x"], "unknown option '--zzzzzzzzzz'; --help lists them all"),
        (["-x"], "unknown option '-x'"),
        (["--path", "x"], r"did you mean '--model.path' or '--data.path' or '--evaluation.path'\?"),
        (["--kl_coeff", "1"], r"did you mean '--objective.kl_coef'\?"),
        (["--rollout.group_sise", "4"], r"did you mean '--rollout.group_size'\?"),
        (["--held_out_dataset", "x"], "unknown option '--held_out_dataset'; --help lists them all"),  # not --dataset
        (["--model", "x"], r"did you mean '--model.path' or '--model.min_pixels' or "),
        (["--beta", "0.1"], "unknown option '--beta'; --help"),  # elsewhere the KL's coefficient; not Adam's betas
        (["--optimizer.l2", "1"], "unknown option '--optimizer.l2'; --help"),  # not --optimizer.lr
        (["rollout.group_size=4"], "'rollout.group_size=4': an option begins with two dashes: --rollout.group_size=4"),
        (["rollout.group_size", "4"], "an option begins with two dashes: --rollout.group_size"),
        (["-rollout.group_size", "4"], "an option begins with two dashes: --rollout.group_size"),
        (["—eval_dataset", "x"], "an option begins with two dashes: --eval_dataset"),
        (["grpo", "seed=1"], "an option begins with two dashes: --seed=1"),
        (["--optimizer.lr"], "option '--optimizer.lr' needs a value"),
        (["--optimizer.lr", "--run.seed", "1"], "option '--optimizer.lr' needs a value"),
        (["--rewards.functions", "{}"], "rewards.functions: should not be empty"),
        (["--run.wandb", ""], "run.wandb = '': should not be empty"),
        (
            ["--rollout.temperature", "1e-300"],
            "should be greater than or equal to 0.001",
        ),
        (["--optimizer.lr", "fast"], "optimizer.lr = 'fast': should be a number"),
        (["--model.dtype", "float16"], "model.dtype = 'float16': should be 'auto', 'float32' or 'bfloat16'"),
        (["--objective.estimator", "gae"], "gae needs a critic"),
        (["--rewards.functions", "accuracy"], "--rewards.functions = 'accuracy': write it as name=value"),
        (["--rollout.stop", "[a"], r"--rollout.stop = '\[a': line 1, column 3: broken YAML"),
        (["--objective.importance_cap", "2"], "importance_cap needs objective.old_logprobs: policy"),
        (["no/such.yaml"], "no recipe 'no/such.yaml'"),
        (["x" * 5000], "no recipe 'xxx"),
        (["a\0b"], "no recipe 'a"),
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


@pytest.mark.parametrize("text", ["010", "1:30", "true", "1e400", "3000000000"])
def test_the_command_line_is_as_strict_about_numbers(text):
    with pytest.raises(UserError, match=r"run\.steps = "):
        parse("--run.steps", text)


@pytest.mark.parametrize("text", ["enforce_eager=no", "{enforce_eager: Off}"])
def test_a_switch_of_vllm_is_true_or_false(text):
    with pytest.raises(UserError, match=r"rollout\.vllm.*: enforce_eager = '.*' is text: write true or false"):
        parse("--rollout.engine", "vllm", "--rollout.vllm", text)
    words = ["--rollout.engine", "vllm", "--rollout.vllm", "enforce_eager=false"]
    assert parse(*words).rollout.vllm == {"enforce_eager": False}


# The ladder's command line, which has short names and bare words of its own


def ladder_build(*argv):
    return parse_settings(LadderSettings, argv, verb="ladder build")


@pytest.mark.parametrize(
    "name", ["questions.jsonl", "😀.jsonl", "1e5", "null", "a, b", "\udcff.jsonl", "\x7f", "[x]", "#"]
)
def test_a_source_may_have_any_name(name):
    assert ladder_build(name, "other.jsonl").data.sources == (name, "other.jsonl")


def test_a_packaged_recipe_may_stand_among_the_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ladder_build("tiny/ladder").model.path == "runs/demo/warm/model"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--output", "a", "--run.output", "b"],
            "--output a and --run.output b are two values for run.output: give one",
        ),
        (["--model.path=a", "--model=b"], "--model.path a and --model b are two values for model.path"),
        (
            ["--data.sources", "a.jsonl"],
            "'q.jsonl' is a source in addition to --data.sources: give all sources in one way",
        ),
        (["--max_samples", "3"], r"unknown option '--max_samples' \(did you mean '--data.max_samples'\?\)"),
        (["output=a"], "'output=a': an option begins with two dashes: --output=a"),
        (["rollout.group_size", "4"], "'rollout.group_size': an option begins with two dashes"),
    ],
)
def test_a_mistake_on_the_ladder_s_command_line_is_one_line(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        ladder_build("q.jsonl", *argv)


def test_one_output_given_twice_is_one_output():
    assert ladder_build("q.jsonl", "--output", "a", "--run.output=a").run.output == "a"


def test_a_seed_for_every_stage_gives_way_to_that_of_one():
    settings = ladder_build("q.jsonl", "--rollout.seed", "5", "--seed", "7")
    assert (settings.screen.seed, settings.rollout.seed, settings.arrange.seed) == (7, 5, 7)


@pytest.mark.parametrize("option", ["--arrange.size", "--source", "--skip-bad"])
def test_an_option_of_another_command_is_refused_as_one(option):
    with pytest.raises(UserError, match=f"observe-r1 ladder review takes no '{option}'; --help lists its options"):
        parse_settings(LadderSettings, [option, "1"], verb="ladder review")


# Settings that do not go together


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--model.min_pixels", "5000", "--model.max_pixels", "100"],
            "min_pixels = 5000 is more than model.max_pixels",
        ),
        (
            ["--data.format_prompt", "think", "--rewards.template", "observe"],
            "format_prompt = 'think' asks for other tags than rewards.template = 'observe' rewards: leave .* out",
        ),
        (["--rewards.template", "think"], "format_prompt = 'observe' asks for other tags than rewards.template"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(argv, message):
    with pytest.raises(UserError, match=message):
        parse(*argv)


def test_a_format_that_the_questions_ask_for_may_be_rewarded():
    assert parse("--data.format_prompt", "none", "--rewards.template", "think").rewards.template == "think"


def test_what_a_recipe_begins_the_command_line_may_complete(recipe):
    path = recipe("model: {min_pixels: 3000000}\nobjective: {importance_cap: 2}\n")
    settings = parse(path, "--model.max_pixels", "4000000", "--objective.old_logprobs", "policy")
    assert (settings.model.min_pixels, settings.objective.importance_cap) == (3000000, 2)
    with pytest.raises(UserError, match=r"recipe\.yaml and the command line: model\.min_pixels = 3000000 is more than"):
        parse(path)


@pytest.mark.parametrize(("name", "gpu"), [("cuda:1", 1), ("cuda:0", 0), ("3", 3), ("gpu2", 2)])
def test_one_gpu_of_several_is_chosen_by_the_environment(name, gpu):
    with pytest.raises(UserError, match=rf"model\.device = '{name}': set CUDA_VISIBLE_DEVICES={gpu} .* give 'cuda'"):
        parse("--model.device", name)


# Help


@pytest.mark.parametrize(("kind", "verb"), [(TrainSettings, "train"), (SFTSettings, "sft")])
def test_help_explains_every_setting_within_100_columns(kind, verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert main([verb, "nothing.yaml", "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    flowing = " ".join(text.split())
    for name, info in setting_names(kind).items():
        assert f"--{name} " in flowing
        assert " ".join(info.description.split()) in flowing


def test_help_tells_type_default_and_bounds(capsys):
    assert main(["train", "-h"]) == 0
    text = capsys.readouterr().out
    for line in (
        "--model.path TEXT  (required)",
        "--model.dtype auto|float32|bfloat16  (default auto)",
        "--rollout.top_p NUMBER  (default 1.0, > 0, ≤ 1)",
        "--rollout.dynamic_sampling true|false  (default false)",
        "--rewards.functions NAME=NUMBER,…  (default accuracy=1,format=1)",
        "--objective.estimator group_norm|dr_grpo|rloo|reinforce_baseline  (default group_norm)",
        "--rollout.vllm NAME=VALUE,…  (default none)",
        "--optimizer.betas NUMBER,NUMBER  (default 0.9,0.95)",
        "--run.steps INTEGER  (default null, ≥ 1)",
    ):
        assert f"  {line}\n" in text


def test_help_of_sft_has_its_own_defaults_and_leaves_out_what_it_has_not(capsys):
    assert main(["sft", "-h"]) == 0
    text = capsys.readouterr().out
    assert "--optimizer.minibatch INTEGER  (default 32, ≥ 1)" in text
    assert "--run.output TEXT  (default runs/sft)" in text
    assert "--objective." not in text and "--rollout." not in text


def test_every_setting_chosen_from_a_registry_lists_its_names(capsys):
    from observe_r1.registry import REGISTRY

    assert main(["train", "-h"]) == 0
    text = capsys.readouterr().out
    chosen = {
        "data.order": "order",
        "rollout.engine": "engine",
        "objective.estimator": "estimator",
        "objective.kl_estimator": "kl estimator",
        "objective.aggregation": "aggregation",
        "optimizer.kind": "optimizer",
    }
    for name, kind in chosen.items():
        assert f"--{name} {'|'.join(REGISTRY[kind])} " in text


# Settings without effect


def every_need():
    return [(name, need) for need in idle._NEEDS for name in need.settings]


def test_settings_that_need_others_exist():
    known = {*setting_names(TrainSettings), *setting_names(EvaluateSettings)}
    assert {name for name, _ in every_need()} <= known


@pytest.mark.parametrize(
    ("words", "need"),
    [
        (["--rollout.vllm", "max_num_seqs=3"], "rollout.engine vllm"),
        (["--rollout.engine", "vllm", "--rollout.max_rows", "8"], "rollout.engine embedded"),
        (["--rollout.max_age", "3"], "rollout.dynamic_sampling"),
        (["--model.lora_alpha", "8"], "model.lora_rank above 0"),
        (["--data.adaptive_floor", "0.5"], "data.order adaptive"),
        (["--objective.dynamic_weight", "no", "--objective.sigma", "2"], "objective.dynamic_weight"),
        (["--objective.bonus", "0", "--objective.bonus_min_length", "9"], "objective.bonus above 0"),
        (["--objective.kl_in", "loss"], "objective.kl_coef above 0"),
        (["--run.track_every", "3"], "a tracker (run.tensorboard, run.wandb, run.trackio, run.mlflow)"),
        (["--rewards.workers", "2"], "a file of rewards in rewards.functions"),
        (["--rewards.functions", "a.py=1", "--rewards.retries", "2"], "a server of rewards in rewards.functions"),
        (["--rewards.call_timeout", "2"], "a file or a server of rewards in rewards.functions"),
    ],
)
def test_an_option_without_effect_is_refused_and_a_recipe_may_have_it(words, need, recipe):
    name, value = words[-2:]
    with pytest.raises(UserError) as caught:
        parse(*words)
    assert str(caught.value) == f"{name} {value} has no effect without {need}: give that too, or leave it out"
    section, _, setting = name.removeprefix("--").partition(".")
    written = value.replace("=", ": ") if "=" in value else value
    path = recipe(f"{section}: {{{setting}: {f'{{{written}}}' if '=' in value else written}}}\n")
    assert parse(path, *words[:-2])


@pytest.mark.parametrize(
    "words",
    [
        ["--rollout.vllm", "max_num_seqs=3", "--rollout.engine", "vllm"],
        ["--rollout.max_age", "3", "--rollout.dynamic_sampling"],
        ["--objective.kl_in", "loss", "--objective.kl_coef", "0.1"],
        ["--run.track_every", "3", "--run.trackio", "p"],
        ["--rewards.call_timeout", "2", "--rewards.functions", "http://host/=1"],
        ["--rollout.max_age", "1"],  # the default: nothing is asked for
    ],
)
def test_an_option_with_what_it_needs_is_taken(words):
    assert parse(*words)


@pytest.mark.parametrize("option", [["--rollout.engine", "vllm"], ["--model.dtype", "float32"]])
def test_a_server_takes_no_settings_of_engines_unless_they_answer_too(option):
    words = ["model", "data", "--server", "http://host/v1", *option]
    with pytest.raises(UserError, match="has no effect without a model that does not"):
        parse_settings(EvaluateSettings, words, verb="evaluate")
    assert parse_settings(EvaluateSettings, [*words, "--against", "other"], verb="evaluate")
