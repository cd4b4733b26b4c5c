"""The flags of OpenRLHF: every one is taken, and does what it did or says why not."""

from pathlib import Path

import pytest
from original_commands import ORIGINAL_FLAGS, launch_command

from observe_r1.cli.openrlhf.convert import convert, guide
from observe_r1.cli.openrlhf.flags import FLAGS
from observe_r1.cli.options import parse_settings
from observe_r1.config import DataCheckSettings, LadderSettings, SFTSettings, TrainSettings, setting_names
from observe_r1.errors import UserError


def split(text):
    return text.split()


RECIPES = Path(__file__).parents[2] / "recipes"


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


def notes(capsys):
    """What is said about flags, after the line with the command that converts them."""
    hint, *rest = capsys.readouterr().err.splitlines()
    assert hint.startswith("observe-r1: flags of OpenRLHF; as a recipe: observe-r1 convert ")
    return rest


def value_of(settings, name):
    section, setting = name.split(".")
    return getattr(getattr(settings, section), setting)


@pytest.mark.parametrize("version", ORIGINAL_FLAGS)
def test_every_flag_is_taken_with_as_many_words_as_there(version):
    own = {name for kind in (TrainSettings, SFTSettings) for name in setting_names(kind)}
    known = {name: flag.words for name, flag in FLAGS.items()}
    there = {name: words for words, names in ORIGINAL_FLAGS[version].items() for name in names.split()}
    assert {name: known.get(name) for name in there if name not in own} == {
        name: words for name, words in there.items() if name not in own
    }


@pytest.mark.parametrize("kind", [TrainSettings, SFTSettings, LadderSettings, DataCheckSettings])
def test_no_flag_hides_a_setting(kind):
    assert not FLAGS.keys() & setting_names(kind).keys()


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
        ("--seed 7", "run.seed", 7),
        ("--train.seed 7", "run.seed", 7),
        ("--eps_clip 0.3", "objective.clip_low", 0.3),
        ("--eps_clip 0.3", "objective.clip_high", 0.3),
        ("--eps_clip_low_high 0.2 0.28", "objective.clip_high", 0.28),
        ("--actor.eps_clip_low_high 0.1 0.28", "objective.clip_low", 0.1),
        ("--lr_warmup_ratio 0.1", "optimizer.warmup", 0.1),
        ("--max_ckpt_num 5", "run.keep", 5),
        ("--use_wandb KEY", "run.wandb", "observe-r1"),
        ("--wandb_project mine --use_wandb KEY", "run.wandb", "mine"),
        ("--logger.wandb.key KEY --logger.wandb.project mine", "run.wandb", "mine"),
        ("--wandb_project mine", "run.wandb", None),
        ("--adam_offload", "optimizer.offload", True),
        ("--adam_betas 0.8 0.9", "optimizer.betas", (0.8, 0.9)),
        ("--actor.adam.eps 1e-6", "optimizer.eps", 1e-6),
        ("--l2 0.1", "optimizer.weight_decay", 0.1),
        ("--max_norm 0.5", "optimizer.max_grad_norm", 0.5),
        ("--lr_scheduler cosine", "optimizer.min_lr_ratio", 0.0),
        ("--lr_scheduler cosine --min_lr_ratio 0.3", "optimizer.min_lr_ratio", 0.3),
        ("--lr_scheduler linear", "optimizer.schedule", "linear"),
        ("--lr_warmup_ratio 0.1 --lr_scheduler constant", "optimizer.warmup", 0.0),
        ("--lr_warmup_ratio 0.1 --lr_scheduler constant_with_warmup", "optimizer.warmup", 0.1),
        ("--train.max_tokens_per_gpu 4096", "optimizer.tokens_per_pack", 4096),
        ("--eval_dataset held.jsonl", "evaluation.path", "held.jsonl"),
        ("--eval_steps 5 --eval_dataset held.jsonl", "evaluation.every", 5),
        ("--eval_steps -1 --eval_dataset held.jsonl", "evaluation.every", 20),
        ("--eval_n_samples_per_prompt 4 --eval_dataset held.jsonl", "evaluation.samples", 4),
        ("--eval_steps 5", "evaluation.every", 20),
        ("--top_p 0.9", "rollout.top_p", 0.9),
        ("--top_p 0.9", "objective.old_logprobs", "policy"),
        ("--top_p 1.0", "objective.old_logprobs", "sampler"),
        ("--target_modules q_proj v_proj --bf16", "model.lora_targets", ("q_proj", "v_proj")),
        ("--target_modules all-linear", "model.lora_targets", ()),
        ("--load_in_4bit --lora_rank 8", "model.quantize", "4bit"),
        ("--param_dtype bf16", "model.dtype", "bfloat16"),
        ("--freeze_prefix lm_head --freeze_visual_encoder", "model.freeze", ("lm_head", "model.visual")),
        ("--dynamic_filtering", "rollout.dynamic_sampling", True),
        ("--enable_vllm_is_correction", "objective.importance_cap", 5.0),
        (
            "--algo.advantage.is_correction_enable --algo.advantage.is_correction_threshold 0.5 2.0",
            "objective.importance_cap",
            2.0,
        ),
        ("--max_len 4096 --max_new_tokens 1024", "data.max_prompt_tokens", 3072),
        ("--data.max_len 4096 --rollout.max_new_tokens 2048", "data.max_prompt_tokens", 2048),
        ("--max_global_steps 40", "run.steps", 40),
        ("--train.batch_size 64 --rollout.n_samples_per_prompt 4", "optimizer.minibatch", 16),
    ],
)
def test_a_flag_sets_what_it_set_directly_and_in_a_converted_recipe(words, setting, value, recipe, tmp_path):
    path = recipe("optimizer: {lr: 9, minibatch: 99}\nobjective: {bonus: 0, dynamic_weight: false, whiten: true}")
    settings = train(path, *words.split())
    assert value_of(settings, setting) == value
    converted = tmp_path / "converted.yaml"
    converted.write_text(convert("train", [path, *words.split()]))
    assert train(str(converted)) == settings


def test_processor_kwargs_are_json(recipe):
    model = train(recipe(), "--processor_kwargs", '{"min_pixels": 3136, "max_pixels": 50176}').model
    assert (model.min_pixels, model.max_pixels) == (3136, 50176)


@pytest.mark.parametrize("name", [name for name, flag in FLAGS.items() if flag.remark.startswith("no effect")])
def test_a_flag_that_no_longer_matters_changes_nothing_and_says_why_in_one_line(name, recipe, capsys):
    path = recipe()
    capsys.readouterr()
    words = [f"--{name}"] + ["1"] * {"none": 0, "one": 1, "two": 2}[FLAGS[name].words]
    assert train(path, *words) == train(path)
    (note,) = notes(capsys)
    assert note.startswith(f"observe-r1: --{name}: ")


def test_flags_that_share_a_reason_share_a_line(recipe, capsys):
    train(
        recipe(), *split("--actor_num_nodes 1 --actor_num_gpus_per_node 1 --ref.num_gpus_per_node 8 --ref_num_nodes 1")
    )
    assert sorted(notes(capsys)) == [
        "observe-r1: --actor_num_nodes, --actor_num_gpus_per_node: no effect: sampling and training take turns on one"
        " GPU, in one process",
        "observe-r1: --ref_num_nodes, --ref.num_gpus_per_node: no effect: the reference model is on the policy's GPUs",
    ]


def test_remote_rm_url_says_that_accuracy_is_computed_all_the_same(recipe, capsys):
    train(recipe(), "--remote_rm_url", "a.py")
    (note,) = notes(capsys)
    assert note.startswith("observe-r1: --remote_rm_url: these are the whole reward, as in the original; accuracy is")


def test_shuffle_says_that_it_keeps_the_order(recipe, capsys):
    train(recipe(), "--shuffle")
    (note,) = notes(capsys)
    assert note == "observe-r1: --shuffle: keeps the file's order, as it did in the original (data.order: ladder)"


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
        (["--max_epochs", "2"], "--max_epochs 2 would use each rollout several times"),
        (["--gamma", "0.9"], "--gamma 0.9: rewards are not discounted"),
        (["--lora_rank", "-8"], "model.lora_rank = '-8'"),
        (["--processor_kwargs", "{'a': 1}"], "broken JSON: .*character 2"),
        (["--processor_kwargs", '{"size": 1}'], "only min_pixels and max_pixels are accepted"),
        (["--processor_kwargs", "[1]"], "only min_pixels and max_pixels are accepted"),
        (["--temperature", "hot"], "rollout.temperature = 'hot': should be a number"),
        (["--shuffle=true"], "option '--shuffle' takes no value"),
        (["--pretrain"], "option '--pretrain' needs a value"),
        (["--adam_betas", "0.9", "--bf16"], "option '--adam_betas' needs a value"),
        (["--adam_betas", "0.9", "1.9"], "optimizer.betas"),
        (["--seed", "-1"], "run.seed = '-1'"),
        (["--seed", "010"], "run.seed = '010': should be a number without a leading zero"),
        (["--actor_num_gpus_per_node", "all"], "--actor_num_gpus_per_node: 'all' is not a whole number"),
        (["--lr_scheduler", "polynomial"], "--lr_scheduler 'polynomial': only cosine_with_min_lr, cosine, linear"),
        (["--param_dtype", "fp16"], "--param_dtype 'fp16': only bf16 and fp32 are available"),
        (["--lora_dropout", "0.1"], "--lora_dropout 0.1: adapters have no dropout; only 0 is accepted"),
        (
            ["--reward_clip_range", "-5", "5"],
            "--reward_clip_range -5 5: rewards are not clipped; .* only -10 10 is accepted",
        ),
        (["--prompt_split", "test"], "--prompt_split test: name another split in the path: NAME@SPLIT"),
        (["--policy_loss_type", "gspo"], "--policy_loss_type gspo: .*; only ppo is accepted"),
        (["--entropy_loss_coef", "0.01"], "only 0 is accepted"),
        (["--kl_target", "6"], "--kl_target: the coefficient of the KL term, objective.kl_coef, is fixed"),
        (["--reward_pretrain", "m"], "--reward_pretrain: reward models are not loaded: serve the model"),
        (["--advantage_estimator", "rloo", "--no_advantage_std_norm"], "not available for rloo and reinforce_baseline"),
        (
            ["--max_len", "2048"],
            "--max_len 2048 limits prompt and response together, and rollout.max_new_tokens = 8192",
        ),
        (["--enable_ema"], "--enable_ema: no moving average of the weights is kept"),
        (["--eval_dataset"], "option '--eval_dataset' needs a value"),
        (
            ["--prompt_data", "a", "--dataset", "b"],
            "--prompt_data a and --dataset b are two values for data.path: give",
        ),
        (
            ["--save_path", "a", "--ckpt.output_dir", "b"],
            "--save_path a and --ckpt.output_dir b are two values for run",
        ),
        (["--run.output", "a", "--save_path", "b"], "--run.output a and --save_path b are two values for run.output"),
        (["--model.path", "a", "--pretrain", "b"], "--model.path a and --pretrain b are two values for model.path"),
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


def test_what_a_name_overrides_is_said(recipe, capsys):
    train(recipe(), "--generate_max_len", "99", "--rollout.max_new_tokens", "9", "--seed", "1", "--run.seed", "1")
    # the seeds agree
    assert notes(capsys) == ["observe-r1: --generate_max_len: overridden by --rollout.max_new_tokens 9"]


def test_one_place_given_twice_is_one_place(recipe):
    settings = train(recipe(), *split("--save_path a --run.output a --prompt_data b --dataset b"))
    assert (settings.run.output, settings.data.path) == ("a", "b")


def test_a_key_is_never_shown(recipe, capsys):
    for words in ("--use_wandb secret", "--use-wandb=secret", "--logger.wandb.key secret --seed 3"):
        train(recipe(), *words.split())
        assert "secret" not in (said := capsys.readouterr().err) and "KEY" in said
    train(recipe(), "--remote_rm_url", "http://me:secret@host/get")
    assert "secret" not in (said := capsys.readouterr().err) and "host/get" in said


def test_a_range_that_changes_nothing_is_taken(recipe, capsys):
    path = recipe()
    assert train(path, *split("--reward_clip_range -10 10.0 --dynamic_filtering_reward_range 0.0 1")) == train(path)
    assert "".join(notes(capsys)).count("no effect") == 2


def test_a_flag_beside_settings_by_name_leaves_the_defaults_alone(capsys):
    settings = train("--model.path", "m", "--data.path", "d", "--seed", "4")
    assert (settings.objective.bonus, settings.objective.kl_coef, settings.data.order) == (0.2, 0, "ladder")
    assert notes(capsys) == []


def test_without_a_recipe_the_original_is_plain_and_shuffled(capsys):
    settings = train("--pretrain", "m", "--prompt_data", "d")
    assert (settings.objective.bonus, settings.objective.dynamic_weight) == (0, False)
    assert (settings.data.order, settings.objective.kl_coef) == ("random", 0.01)
    assert "the original's flags without a recipe: no bonus, " in capsys.readouterr().err


def test_beside_a_recipe_the_recipe_holds_where_no_flag_speaks(recipe, capsys):
    settings = train(recipe(), "--temperature", "0.9")
    assert (settings.objective.bonus, settings.objective.dynamic_weight) == (0.2, True)
    assert settings.data.order == "ladder"
    assert notes(capsys) == []


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
        del settings["rollout"]["dynamic_sampling"], settings["run"], settings["cluster"], settings["rollout"]["engine"]
    assert pasted == ours


# Supervised fine-tuning


def test_sft_takes_the_flags_that_it_has_settings_for(capsys):
    argv = split("--pretrain m --dataset a,b --dataset_probs 0.3,0.7 --max_epochs 3 --train_batch_size 64")
    settings = parse_settings(SFTSettings, argv, verb="sft")
    assert (settings.data.path, settings.data.probs) == ("a,b", (0.3, 0.7))
    assert (settings.run.epochs, settings.optimizer.minibatch) == (3.0, 64)
    assert settings.optimizer.lr == 1e-5
    assert notes(capsys) == []


def test_sft_takes_the_flags_of_openrlhf_s_sft():
    argv = split(
        "--model.model_name_or_path m --data.dataset d --adam.lr 2e-5 --data.max_len 2048 --train.max_epochs 2"
    )
    settings = parse_settings(SFTSettings, argv, verb="sft")
    assert (settings.model.path, settings.data.path, settings.optimizer.lr) == ("m", "d", 2e-5)
    assert (settings.data.max_prompt_tokens, settings.run.epochs) == (2048, 2.0)


def test_sft_refuses_a_flag_of_reinforcement_learning():
    with pytest.raises(UserError, match=r"--n_samples_per_prompt sets 'rollout\.group_size', which this command"):
        parse_settings(SFTSettings, ["--n_samples_per_prompt", "8"], verb="sft")


def test_the_guide_is_written_from_the_table():
    page = Path(__file__).parents[2] / "docs" / "coming-from-openrlhf.md"
    assert page.read_text(encoding="utf-8") == guide(), "run `make docs`"
