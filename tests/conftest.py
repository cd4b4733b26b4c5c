"""One thread a test process: the tensors are tiny, and two processes of two threads each slow each other down."""

import pytest
import torch

from observe_r1.torch_compat import ensure_importable

pytest.register_assert_rewrite("asked_ladder", "measured_ladder")
ensure_importable()
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with questions (`train`), demonstrations (`sft`), an untrained tiny model and its warm start `warm`."""
    from observe_r1.cli.main import main
    from observe_r1.world.dataset import write_demonstrations, write_questions
    from observe_r1.world.tiny_model import make_tiny_model

    folder = tmp_path_factory.mktemp("world")
    make_tiny_model(folder / "tiny")
    data = write_demonstrations(folder / "sft", seed=0, count=200)
    write_questions(folder / "train", "train", seed=0, count=60)
    paths = ["--model.path", str(folder / "tiny"), "--data.path", str(data), "--run.output", str(folder / "warm")]
    options = ["--run.steps", "40", "--optimizer.lr", "3e-3", "--run.threads", "1", "--model.device", "cpu"]
    assert main(["sft", *paths, *options]) == 0
    return folder
