"""The recipes and the scripts that run them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from observe_r1.cli.options import parse_settings
from observe_r1.config import LadderSettings, SFTSettings, TrainSettings
from observe_r1.config.verbs import dump_settings
from observe_r1.errors import UserError

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("*.yaml"))
METHODS = ["grpo", "observe_r1", "observe_r1_random"]
ONE_GPU = ["qwen2_5_vl_3b_24gb", "qwen2_5_vl_3b_80gb"]
KINDS = {"sft": (SFTSettings, "sft"), "ladder": (LadderSettings, "ladder build")}
SCRIPTS = {"train_grpo.sh": "grpo", "train_r1.sh": "observe_r1", "train_random.sh": "observe_r1_random"}


def read(name):
    kind, verb = KINDS.get(Path(name).stem, (TrainSettings, "train"))
    return parse_settings(kind, [str(ROOT / "recipes" / name)], verb=verb)


def differences(one, other):
    one, other = one.model_dump(), other.model_dump()
    return {
        f"{section}.{name}" for section in one for name in one[section] if one[section][name] != other[section][name]
    }


def test_the_recipes_are_all_there():
    methods = [f"{name}.yaml" for name in METHODS]
    one_gpu = [f"{name}.yaml" for name in ONE_GPU]
    assert {str(path) for path in RECIPES} == {
        *methods, *one_gpu, *(f"tiny/{name}" for name in methods), "tiny/sft.yaml", "tiny/ladder.yaml"
    }  # fmt: skip


@pytest.mark.parametrize("name", ONE_GPU)
def test_a_recipe_for_one_gpu_changes_what_memory_asks_for_and_not_the_method(name):
    changed = differences(read("observe_r1.yaml"), read(f"{name}.yaml"))
    memory = {
        "model.freeze", "model.lora_rank", "model.lora_alpha", "data.max_prompt_tokens", "rollout.max_new_tokens",
        "rollout.max_rows", "optimizer.kind", "optimizer.tokens_per_pack", "optimizer.head_chunk", "run.output",
    }  # fmt: skip
    rate_of_adapters = {"optimizer.lr"} if read(f"{name}.yaml").model.lora_rank else set()
    assert changed <= memory | rate_of_adapters


@pytest.mark.parametrize("name", RECIPES, ids=str)
def test_a_recipe_written_into_a_run_folder_reads_back_the_same(name, tmp_path):
    settings = read(name)
    (tmp_path / "config.yaml").write_text(dump_settings(settings))
    _, verb = KINDS.get(name.stem, (TrainSettings, "train"))
    assert parse_settings(type(settings), [str(tmp_path / "config.yaml")], verb=verb) == settings


@pytest.mark.parametrize("name", METHODS)
def test_the_hyper_parameters_are_the_release_s(name):
    settings = read(f"{name}.yaml")
    optimizer, rollout, objective, data = settings.optimizer, settings.rollout, settings.objective, settings.data
    assert (optimizer.lr, optimizer.betas, optimizer.warmup) == (1e-6, (0.9, 0.95), 0.03)
    assert (optimizer.schedule, optimizer.min_lr_ratio, optimizer.max_grad_norm) == ("cosine", 0.1, 1.0)
    assert (rollout.prompts, rollout.group_size, rollout.temperature) == (128, 8, 1.0)
    responses_a_step = 64
    assert optimizer.minibatch * rollout.group_size == responses_a_step
    assert rollout.prompts // optimizer.minibatch == 16
    assert (data.max_prompt_tokens, rollout.max_new_tokens, data.max_samples) == (9216, 8192, 20000)
    assert (settings.model.min_pixels, settings.model.max_pixels) == (4 * 28 * 28, 10000 * 16 * 16)
    assert settings.model.dtype == "bfloat16"
    assert (objective.clip_low, objective.clip_high, objective.aggregation) == (0.2, 0.2, "token")
    assert (objective.kl_coef, objective.kl_estimator, objective.kl_in) == (0.01, "k1", "reward")
    assert (objective.estimator, data.format_prompt, settings.rewards.template) == ("group_norm", "observe", None)
    assert settings.run.epochs == 1 and settings.run.steps is None and settings.run.prompts is None


@pytest.mark.parametrize("folder", ["", "tiny/"])
def test_the_recipes_differ_in_what_they_are_about(folder):
    full = read(f"{folder}observe_r1.yaml")
    assert (full.objective.bonus, full.objective.bonus_min_length > 0, full.objective.dynamic_weight) == (
        0.2,
        True,
        True,
    )
    assert (full.objective.sigma, full.data.order, full.rollout.dynamic_sampling) == (1.8, "ladder", True)

    random = read(f"{folder}observe_r1_random.yaml")
    assert differences(full, random) == {"data.order", "run.output"}
    assert random.data.order == "random"

    grpo = read(f"{folder}grpo.yaml")
    assert differences(random, grpo) == {
        "objective.bonus", "objective.dynamic_weight", "rollout.dynamic_sampling", "run.output"
    }  # fmt: skip
    assert (grpo.objective.bonus, grpo.objective.dynamic_weight, grpo.rollout.dynamic_sampling) == (0, False, False)


@pytest.mark.parametrize("name", METHODS)
def test_a_tiny_twin_runs_on_a_cpu_with_what_the_demo_leaves_behind(name):
    settings = read(f"tiny/{name}.yaml")
    assert settings.model.path == "runs/demo/warm/model"
    assert settings.data.path == "runs/demo/ladder"
    assert (settings.model.device, settings.model.dtype) == ("cpu", "float32")
    assert settings.objective.kl_coef == 0


# Scripts


@pytest.fixture
def checkout(tmp_path):
    """A copy of recipes and scripts with a command that only prints its words."""
    for folder in ("recipes", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    command = tmp_path / ".venv" / "bin" / "observe-r1"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(checkout, script, *words, **variables):
    environment = {"PATH": os.environ["PATH"], **variables}
    command = ["bash", str(checkout / "scripts" / script), *words]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)


@pytest.mark.parametrize(("script", "name"), SCRIPTS.items())
def test_a_script_trains_your_model_on_your_data(checkout, script, name):
    done = run(checkout, script, "--run.seed", "a b", MODEL="my model", DATA="my data.jsonl")
    folder, *words = done.stdout.splitlines()
    assert Path(folder) == checkout.resolve()
    output = words.pop(7)
    assert output.startswith(f"runs/{name}-20")
    assert words == [
        "train", f"recipes/{name}.yaml", "--model.path", "my model", "--data.path", "my data.jsonl", "--run.output",
        "--run.seed", "a b",
    ]  # fmt: skip


@pytest.mark.parametrize(("script", "name"), SCRIPTS.items())
def test_a_script_as_it_stands_trains_the_demo_s_model(checkout, script, name):
    (checkout / "runs" / "demo" / "warm" / "model").mkdir(parents=True)
    done = run(checkout, script)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:3] == ["train", f"recipes/tiny/{name}.yaml"]
    assert (checkout / "recipes" / "tiny" / f"{name}.yaml").is_file()


def test_a_script_without_anything_to_train_says_what_to_do(checkout):
    done = run(checkout, "train_r1.sh")
    assert done.returncode == 2
    assert done.stderr.endswith("set MODEL and DATA, or run `make demo` first to train its tiny model\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("variables", [{"MODEL": "m"}, {"DATA": "d"}])
def test_a_script_with_half_of_what_it_needs_says_so(checkout, variables):
    done = run(checkout, "train_grpo.sh", **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert "set both MODEL and DATA" in done.stderr


def test_scripts_may_be_executed():
    for script in (ROOT / "scripts").glob("*.sh"):
        assert os.access(script, os.X_OK), script


def test_a_recipe_that_is_a_git_lfs_pointer_is_named(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    with pytest.raises(UserError, match=r"/a\.yaml: is a Git LFS pointer"):
        parse_settings(TrainSettings, [str(path)], verb="train")
