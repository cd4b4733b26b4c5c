"""One thread a test process: the tensors are tiny, and two processes of two threads each slow each other down."""

import pytest
import torch

from observe_r1.torch_compat import ensure_importable

ensure_importable()
torch.set_num_threads(1)

SLOW = {
    "test_adapters",
    "test_demo",
    "test_end_to_end",
    "test_flex_attention",
    "test_held_out",
    "test_image_attention",
    "test_ladder_answers",
    "test_ladder_arrange",
    "test_ladder_asking",
    "test_ladder_build",
    "test_ladder_vllm",
    "test_loading",
    "test_memory",
    "test_optimizers",
    "test_original_commands",
    "test_report_ladder",
    "test_report_ladder_figures",
    "test_report_ladder_hostile",
    "test_resume",
    "test_rewards_file",
    "test_rewards_hostile",
    "test_rewards_scorer",
    "test_rewards_worker",
    "test_start_up",
    "test_vllm",
}
"""Files whose tests train, build ladders, compile, draw or start processes; those that ask for `world` do so anyway."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out."""
    for item in items:
        if item.path.stem in SLOW or "world" in item.fixturenames:
            item.add_marker("slow")


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
