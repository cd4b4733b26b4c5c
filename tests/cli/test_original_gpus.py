"""The flags of OpenRLHF that place a run on GPUs: together they make the section `cluster`."""

import pytest

from observe_r1.cli.openrlhf.convert import convert
from observe_r1.cli.options import parse_settings
from observe_r1.config import SFTSettings, TrainSettings
from observe_r1.errors import UserError


@pytest.fixture
def recipe(tmp_path):
    """A recipe that states what is required."""
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {path: m}\ndata: {path: d}\n")
    return str(path)


def train(*argv):
    return parse_settings(TrainSettings, list(argv), verb="train")


def value_of(settings, name):
    section, setting = name.split(".")
    return getattr(getattr(settings, section), setting)


PLACED = "cluster.gpus cluster.address cluster.layout cluster.engines cluster.tensor_parallel cluster.reshard"
PLACED = [*PLACED.split(), "rollout.engine", "rollout.ahead"]
ALONE = (None, None, "colocated", None, 1, True, "embedded", 0)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("--zero_stage 2", ALONE),
        ("--colocate_all_models", ALONE),
        ("--vllm_tensor_parallel_size 4", ALONE),
        ("--async_train --async_queue_size 2", ALONE),
        ("--actor_num_gpus_per_node 1 --colocate_all_models --vllm_num_engines 1 --zero_stage 3", ALONE),
        ("--actor_num_gpus_per_node 1 --vllm_num_engines 0", ALONE),
        ("--actor_num_gpus_per_node 4", (4, None, "colocated", None, 1, True, "embedded", 0)),
        ("--actor.num_gpus_per_node 4 --zero_stage 2", (4, None, "colocated", None, 1, False, "embedded", 0)),
        ("--zero_stage 1 --actor_num_gpus_per_node 4", (4, None, "colocated", None, 1, False, "embedded", 0)),
        ("--actor_num_nodes 2", (16, "auto", "colocated", None, 1, True, "embedded", 0)),
        (
            "--actor_num_nodes 4 --actor_num_gpus_per_node 8 --colocate_all_models --vllm_num_engines 16"
            " --vllm_tensor_parallel_size 2 --zero_stage 3",
            (32, "auto", "colocated", 16, 2, True, "vllm", 0),
        ),
        (
            "--actor_num_gpus_per_node 4 --vllm_num_engines 2 --vllm_tensor_parallel_size 2 --ds.zero_stage 2",
            (8, None, "apart", 2, 2, False, "vllm", 0),
        ),
        (
            "--actor_num_gpus_per_node 1 --vllm_num_engines 1 --async_train --ref_num_gpus_per_node 4",
            (2, None, "apart", 1, 1, True, "vllm", 1),
        ),
        (
            "--actor_num_gpus_per_node 1 --vllm_num_engines 1 --train.async_enable --train.async_queue_size 3",
            (2, None, "apart", 1, 1, True, "vllm", 3),
        ),
        ("--actor_num_gpus_per_node 2 --cluster.gpus 3", (3, None, "colocated", None, 1, True, "embedded", 0)),
        ("--cluster.gpus 2 --zero_stage 2", (2, None, "colocated", None, 1, False, "embedded", 0)),
        (
            "--actor_num_gpus_per_node 2 --colocate_all_models --vllm_num_engines 2 --rollout.engine embedded",
            (2, None, "colocated", 2, 1, True, "embedded", 0),
        ),
    ],
)
def test_flags_about_gpus_place_the_run(words, values, recipe, tmp_path, capsys):
    path = recipe
    settings = train(path, *words.split())
    assert tuple(value_of(settings, name) for name in PLACED) == values
    said = capsys.readouterr().err
    for word in words.split():
        if word.startswith("--") and "." not in word and "zero" not in word:  # each is told what came of it
            assert word in said
    converted = tmp_path / "converted.yaml"
    converted.write_text(convert("train", [path, *words.split()]))
    assert train(str(converted)) == settings


def test_sampling_ahead_is_corrected(recipe):
    apart = "--actor_num_gpus_per_node 1 --vllm_num_engines 1 --async_train"
    objective = train(recipe, *apart.split()).objective
    assert (objective.old_logprobs, objective.importance_cap) == ("policy", 5.0)
    bounds = "--enable_vllm_is_correction --vllm_is_truncated_threshold 0.5 2"
    assert train(recipe, *apart.split(), *bounds.split()).objective.importance_cap == 2


def test_supervised_fine_tuning_uses_one_gpu(capsys):
    parse_settings(SFTSettings, "--pretrain m --dataset d --zero_stage 2".split(), verb="sft")
    assert capsys.readouterr().err.splitlines()[1:] == [
        "observe-r1: --zero_stage: no effect: this command uses one GPU"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--actor_num_gpus_per_node 0", "--actor_num_gpus_per_node 0: must be 1 or more"),
        ("--vllm_num_engines -1", "--vllm_num_engines -1: must be 0 or more"),
        ("--zero_stage 4", "--zero_stage 4: only 0, 1, 2 and 3 are stages"),
        (
            "--actor_num_nodes 1 --actor.num_nodes 2",
            "--actor_num_nodes 1 and --actor.num_nodes 2 contradict each other: give one",
        ),
        (
            "--colocate_all_models --actor_num_gpus_per_node 4 --vllm_num_engines 8",
            "--vllm_num_engines 8 × 1 GPUs of each are 8, and --colocate_all_models puts them on the policy's",
        ),
    ],
)
def test_a_placement_that_cannot_be_is_refused_in_one_line(words, message, recipe):
    with pytest.raises(UserError, match=message) as caught:
        train(recipe, *words.split())
    assert "\n" not in str(caught.value)
