"""The original's flags: every one is taken, and does what it did or says why not."""

from pathlib import Path

import pytest
from original_commands import launch_command

from observe_r1.cli.flag_guide import guide
from observe_r1.cli.options import parse_settings
from observe_r1.cli.original_flags import FLAGS
from observe_r1.config import SFTSettings, TrainSettings, setting_names
from observe_r1.errors import UserError


def split(text):
    return text.split()


RECIPES = Path(__file__).parents[1] / "recipes"

# As the launch scripts and the README of the release use them; `num_episodes` for completeness.
SWITCHES = split(
    """
    apply_chat_template shuffle save_hf_ckpt load_checkpoint use_bonus use_dyna_weight use_kl_loss
    normalize_reward bf16 flash_attn gradient_checkpointing colocate_all_models vllm_enable_sleep
    enable_prefix_caching
    """
)
WITH_VALUE = split(
    """
    prompt_data prompt_data_probs dataset dataset_probs input_key label_key max_samples pretrain save_path
    ckpt_path save_steps use_tensorboard remote_rm_url advantage_estimator bonus_reward_coef bonus_constraint diff_coef
    n_samples_per_prompt rollout_batch_size micro_rollout_batch_size train_batch_size micro_train_batch_size max_epochs
    num_episodes temperature prompt_max_len generate_max_len actor_learning_rate init_kl_coef kl_estimator lambd gamma
    freeze_prefix processor_kwargs lora_rank lora_alpha zero_stage actor_num_nodes actor_num_gpus_per_node ref_num_nodes
    ref_num_gpus_per_node vllm_num_engines vllm_tensor_parallel_size vllm_gpu_memory_utilization
    vllm_sync_backend
    """
)


@pytest.fixture
def recipe(tmp_path):
    """A recipe that states what is required and the settings under test."""

    def write(text=""):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"model: {{path: m}}\ndata: {{path: d}}\n{text}")
        return str(path)

    return write


def train(*argv):
    return parse_settings(TrainSettings, list(argv), verb="train")


def value_of(settings, name):
    section, setting = name.split(".")
    return getattr(getattr(settings, section), setting)


def test_the_table_has_every_flag():
    assert set(FLAGS) == {*SWITCHES, *WITH_VALUE}
    assert {name for name, flag in FLAGS.items() if flag.words == "none"} == set(SWITCHES)


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_names_real_settings_or_a_reason(name):
    flag = FLAGS[name]
    assert all(setting in setting_names(TrainSettings) for setting in flag.sets)
    assert flag.sets or flag.remark
    assert "\n" not in flag.remark


@pytest.mark.parametrize(
    ("words", "setting", "value"),
    [
        ("--prompt_data a.jsonl", "data.path", "a.jsonl"),
        ("--prompt-data a.jsonl", "data.path", "a.jsonl"),
        ("--prompt_data=a.jsonl", "data.path", "a.jsonl"),
        ("--prompt_data a,b --prompt_data_probs 0.1,0.9", "data.probs", (0.1, 0.9)),
        ("--dataset a.jsonl", "data.path", "a.jsonl"),
        ("--dataset_probs 0.1,0.4,0.5", "data.probs", (0.1, 0.4, 0.5)),
        ("--input_key chat", "data.input_key", "chat"),
        ("--label_key gold", "data.label_key", "gold"),
        ("--shuffle", "data.order", "ladder"),
        ("--max_samples 300", "data.max_samples", 300),
        ("--pretrain folder", "model.path", "folder"),
        ("--save_path out", "run.output", "out"),
        ("--remote_rm_url a.py", "rewards.functions", {"a.py": 1.0}),
        ("--remote_rm_url a.py,http://h:5/get", "rewards.functions", {"a.py": 1.0, "http://h:5/get": 1.0}),
        ("--remote_rm_url a.py --rewards.functions format=2", "rewards.functions", {"format": 2.0}),
        ("--use_tensorboard logs", "run.tensorboard", True),
        ("--advantage_estimator rloo", "objective.estimator", "rloo"),
        ("--advantage_estimator rloo", "objective.whiten", True),
        ("--advantage_estimator reinforce_baseline", "objective.whiten", True),
        ("--advantage_estimator dr_grpo", "objective.whiten", False),
        ("--advantage_estimator group_norm", "objective.whiten", False),
        ("--use_bonus", "objective.bonus", 0.2),
        ("--use_bonus --bonus_reward_coef 0.4", "objective.bonus", 0.4),
        ("--bonus_constraint 50", "objective.bonus_min_length", 50),
        ("--use_dyna_weight", "objective.dynamic_weight", True),
        ("--diff_coef 2.5", "objective.sigma", 2.5),
        ("--n_samples_per_prompt 16", "rollout.group_size", 16),
        ("--rollout_batch_size 64", "rollout.prompts", 64),
        ("--train_batch_size 64", "optimizer.minibatch", 8),
        ("--train_batch_size 64 --n_samples_per_prompt 16", "optimizer.minibatch", 4),
        ("--n_samples_per_prompt 16 --train_batch_size 64", "optimizer.minibatch", 4),
        ("--train_batch_size 64 --rollout.group_size 32", "optimizer.minibatch", 2),
        ("--train_batch_size 64 --n_samples_per_prompt 16 --rollout.group_size 32", "optimizer.minibatch", 2),
        ("--num_episodes 3", "run.epochs", 3.0),
        ("--max_epochs 1", "run.epochs", 1.0),
        ("--temperature 0.7", "rollout.temperature", 0.7),
        ("--prompt_max_len 512", "data.max_prompt_tokens", 512),
        ("--generate_max_len 256", "rollout.max_new_tokens", 256),
        ("--actor_learning_rate 1e-6", "optimizer.lr", 1e-6),
        ("--init_kl_coef 0.01", "objective.kl_coef", 0.01),
        ("--kl_estimator k3", "objective.kl_estimator", "k3"),
        ("--use_kl_loss", "objective.kl_in", "loss"),
        ("--freeze_prefix visual", "model.freeze", ("model.visual",)),
        (
            "--freeze_prefix visual.blocks model.layers.0 lm_head model.visual --bf16",
            "model.freeze",
            ("model.visual.blocks", "model.language_model.layers.0", "lm_head", "model.visual"),
        ),
        ("--freeze_prefix model", "model.freeze", ("model.language_model",)),
        ("--bf16", "model.dtype", "bfloat16"),
        ("--lora_rank 64", "model.lora_rank", 64),
        ("--lora_alpha 32", "model.lora_alpha", 32.0),
        ("--gradient_checkpointing", "model.gradient_checkpointing", True),
    ],
)
def test_a_flag_sets_what_it_set(words, setting, value, recipe):
    path = recipe("optimizer: {lr: 9, minibatch: 99}\nobjective: {bonus: 0, dynamic_weight: false, whiten: true}")
    assert value_of(train(path, *words.split()), setting) == value


def test_processor_kwargs_are_json(recipe):
    model = train(recipe(), "--processor_kwargs", '{"min_pixels": 3136, "max_pixels": 50176}').model
    assert (model.min_pixels, model.max_pixels) == (3136, 50176)


@pytest.mark.parametrize("name", [name for name, flag in FLAGS.items() if flag.remark.startswith("no effect")])
def test_a_flag_that_no_longer_matters_changes_nothing_and_says_why_in_one_line(name, recipe, capsys):
    path = recipe()
    words = [f"--{name}"] + ["1"] * (FLAGS[name].words != "none")
    assert train(path, *words) == train(path)
    err = capsys.readouterr().err
    assert err.startswith(f"observe-r1: --{name}: ")
    assert err.count("\n") == 1


def test_flags_that_share_a_reason_share_a_line(recipe, capsys):
    train(recipe(), "--zero_stage", "2", "--actor_num_nodes", "1")
    assert capsys.readouterr().err.splitlines() == [
        "observe-r1: --zero_stage, --actor_num_nodes: no effect: sampling and training run in this one process"
    ]


def test_remote_rm_url_says_that_accuracy_is_computed_all_the_same(recipe, capsys):
    train(recipe(), "--remote_rm_url", "a.py")
    err = capsys.readouterr().err
    assert err.startswith("observe-r1: --remote_rm_url: they are the whole reward, as in the original; accuracy is")
    assert err.count("\n") == 1


def test_shuffle_says_that_it_keeps_the_order(recipe, capsys):
    train(recipe(), "--shuffle")
    assert capsys.readouterr().err == (
        "observe-r1: --shuffle: keeps the file's order, as it did in the original (data.order: ladder)\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--apply_chat_template"], "--apply_chat_template: message-format data always goes through"),
        (["--remote_rm_url", "a.py,host:5000"], "--remote_rm_url: 'host:5000' is neither a Python file"),
        (["--advantage_estimator", "gae"], "gae needs a critic"),
        (["--train_batch_size", "60"], "--train_batch_size 60 counts responses .* multiple of 8"),
        (["--train_batch_size", "0"], "--train_batch_size 0 counts responses"),
        (["--train_batch_size", "many"], "--train_batch_size: 'many' is not a whole number"),
        (["--train_batch_size", "8", "--n_samples_per_prompt", "0"], "rollout.group_size = '0'"),
        (["--max_epochs", "2"], "--max_epochs 2 would learn from each rollout several times"),
        (["--gamma", "0.9"], "--gamma 0.9: rewards are not discounted"),
        (["--lora_rank", "-8"], "model.lora_rank = '-8'"),
        (["--processor_kwargs", "{'a': 1}"], "broken JSON: .*character 2"),
        (["--processor_kwargs", '{"size": 1}'], "it may hold min_pixels and max_pixels only"),
        (["--processor_kwargs", "[1]"], "it may hold min_pixels and max_pixels only"),
        (["--temperature", "hot"], "rollout.temperature = 'hot': Input should be a valid number"),
        (["--shuffle=true"], "option '--shuffle' takes no value"),
        (["--pretrain"], "option '--pretrain' needs a value"),
    ],
)
def test_a_flag_is_refused_in_one_line(words, message, recipe):
    with pytest.raises(UserError, match=message) as caught:
        train(recipe(), *words)
    assert "\n" not in str(caught.value)


def test_use_bonus_keeps_the_bonus_of_a_recipe(recipe):
    assert train(recipe("objective: {bonus: 0.3}"), "--use_bonus").objective.bonus == 0.3


def test_the_size_of_a_bonus_that_is_off_means_nothing(recipe, capsys):
    assert train(recipe("objective: {bonus: 0}"), "--bonus_reward_coef", "0.3").objective.bonus == 0
    assert "--bonus_reward_coef: no effect without --use_bonus" in capsys.readouterr().err


def test_settings_by_name_outrank_flags(recipe):
    settings = train(
        recipe(), "--rollout.temperature", "0.5", "--temperature", "0.9", "--use_bonus", "--objective.bonus", "0"
    )
    assert (settings.rollout.temperature, settings.objective.bonus) == (0.5, 0)


def test_without_a_recipe_the_original_is_plain_and_shuffled(capsys):
    settings = train("--pretrain", "m", "--prompt_data", "d")
    assert (settings.objective.bonus, settings.objective.dynamic_weight) == (0, False)
    assert (settings.data.order, settings.objective.kl_coef) == ("random", 0.01)
    assert "the original's flags without a recipe: no bonus, " in capsys.readouterr().err


def test_beside_a_recipe_the_recipe_holds_where_no_flag_speaks(recipe, capsys):
    settings = train(recipe(), "--temperature", "0.9")
    assert (settings.objective.bonus, settings.objective.dynamic_weight) == (0.2, True)
    assert settings.data.order == "ladder"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("script", "recipe_name"),
    [("train_grpo", "grpo"), ("train_r1", "observe_r1"), ("train_random", "observe_r1_random")],
)
def test_the_launch_commands_are_the_recipes(script, recipe_name):
    """The recipes also replace groups that teach nothing, and score with the built-in rewards."""
    pasted = train(*launch_command(script, "model", "rows.jsonl", "out")).model_dump()
    path = str(RECIPES / f"{recipe_name}.yaml")
    ours = train(path, "--model.path", "model", "--data.path", "rows.jsonl").model_dump()
    for settings in (pasted, ours):
        del settings["rollout"]["dynamic_sampling"], settings["run"]
    assert pasted == ours


# Supervised fine-tuning


def test_sft_takes_the_flags_that_it_has_settings_for(capsys):
    argv = split("--pretrain m --dataset a,b --dataset_probs 0.3,0.7 --max_epochs 3 --train_batch_size 64")
    settings = parse_settings(SFTSettings, argv, verb="sft")
    assert (settings.data.path, settings.data.probs) == ("a,b", (0.3, 0.7))
    assert (settings.run.epochs, settings.optimizer.minibatch) == (3.0, 64)
    assert settings.optimizer.lr == 1e-5
    assert capsys.readouterr().err == ""


def test_sft_refuses_a_flag_of_reinforcement_learning():
    with pytest.raises(UserError, match=r"--n_samples_per_prompt sets 'rollout\.group_size', which this command"):
        parse_settings(SFTSettings, ["--n_samples_per_prompt", "8"], verb="sft")


def test_the_guide_is_written_from_the_table():
    page = Path(__file__).parents[1] / "docs" / "coming-from-openrlhf.md"
    assert page.read_text(encoding="utf-8") == guide(), "run `make docs`"
