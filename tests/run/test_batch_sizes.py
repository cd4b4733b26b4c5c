"""Batch sizes that cannot be met are told before anything is loaded."""

import pytest

from observe_r1.cli.main import main
from observe_r1.config import TrainSettings
from observe_r1.errors import UserError
from observe_r1.run.train import check_batch_sizes
from observe_r1.training.loop import RunLength


def check(rows=100, prompts=8, minibatch=4, **run):
    settings = TrainSettings(
        model={"path": "m"},
        data={"path": "d.jsonl"},
        rollout={"prompts": prompts},
        optimizer={"minibatch": minibatch},
        run={name.removeprefix("run_"): value for name, value in run.items()},
    )
    check_batch_sizes(settings, rows, RunLength(settings.run, rows).prompts)


def test_sizes_that_fit_are_no_error():
    check()
    check(rows=8, minibatch=8)
    check(rows=3, run_epochs=2.7)
    check(rows=1, run_prompts=8)
    check(rows=1, run_steps=3)  # a run in steps draws its rows again


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"minibatch": 9}, r"optimizer\.minibatch = 9: more groups than a rollout has, rollout\.prompts = 8"),
        ({"prompts": 10}, r"rollout\.prompts = 10: not a multiple of .*minibatch = 4.* 2 groups: take 8 or 12 prompts"),
        ({"rows": 7}, r"run\.epochs = 1 over 7 rows of d\.jsonl is 7 prompts: less than one rollout"),
        ({"rows": 15, "run_epochs": 0.4}, r"run\.epochs = 0\.4 over 15 rows of d\.jsonl is 6 prompts"),
        ({"run_prompts": 7}, r"run\.prompts = 7: less than one rollout, rollout\.prompts = 8"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(sizes, message):
    with pytest.raises(UserError, match=message):
        check(**sizes)


def test_the_command_says_so_before_it_loads_the_model(world, tmp_path, capsys):
    paths = ["--model.path", str(tmp_path / "no model"), "--data.path", str(world / "train" / "train.jsonl")]
    sizes = ["--rollout.prompts", "64", "--run.output", str(tmp_path / "run")]
    assert main(["train", *paths, *sizes]) == 2
    assert "less than one rollout, rollout.prompts = 64" in capsys.readouterr().err
    assert not list((tmp_path / "run").iterdir())
