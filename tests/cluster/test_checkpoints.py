"""Checkpoints and models that ranks write together: any other number reads them, and one process writes the same."""

import json
import multiprocessing
import time

import pytest
import torch
from learning import OPTIMIZER, distance, learn, load, policy, wide_checkpoint
from safetensors.torch import load_file
from torch import distributed
from torch.multiprocessing import start_processes
from transformers import AutoModelForImageTextToText

from observe_r1.cluster.sharded_policy import ShardedPolicy
from observe_r1.config import ClusterSettings, DataSettings, ObjectiveSettings
from observe_r1.errors import UserError
from observe_r1.model import saving

KINDS = {
    "all": {},
    "frozen tower": {"freeze": ("model.visual",)},
    "adapters": {"lora_rank": 4},
    "adapters on 4 bits": {"lora_rank": 4, "quantize": "4bit"},
}
DATA = DataSettings(path="unused")
MODEL = "model of ranks"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model; checkpoints of one process after 2 steps, 2 ranks after 3, 4 ranks after 4; and these ranks' models."""
    folder = tmp_path_factory.mktemp("sharded")
    wide_checkpoint(folder)
    for kind, settings in KINDS.items():
        (folder / kind).mkdir()
        local = policy(load(folder / "base", **settings))
        learn(local, steps=2)
        assert local.save_state(folder / kind / "1", copy=False).done()
    # Imported once for all processes: it takes seconds.
    multiprocessing.set_forkserver_preload(["observe_r1.run.train"])
    for ranks, loaded in (2, "1"), (4, "2"):
        start_processes(_on_ranks, (folder, ranks, loaded, str(ranks)), nprocs=ranks, start_method="forkserver")
    return folder


def _on_ranks(rank, folder, ranks, loaded, saved):
    """Go on from a checkpoint by one step, and save."""
    torch.set_num_threads(1)
    saving._FILE = 1 << 16  # several files a rank
    store = distributed.FileStore(str(folder / f"store {ranks}"), ranks)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    for kind, settings in KINDS.items():
        vlm = load(folder / "base", **settings)
        sharded = ShardedPolicy(vlm, OPTIMIZER, ObjectiveSettings(), ClusterSettings(gpus=ranks))
        sharded.load_state(folder / kind / loaded)
        learn(sharded, steps=1, first=ranks // 2 + 1)
        writing = sharded.save_state(folder / kind / saved, copy=True)
        sharded.export(folder / kind / f"{MODEL} {ranks}", DATA)
        learn(sharded, steps=1, first=ranks // 2 + 2)  # what is written is what was saved
        while not writing.done():
            time.sleep(0.01)
    if rank == 1:
        saving.save_file = _full
    try:
        sharded.export(folder / f"never {ranks}", DATA)
    except UserError as error:
        (folder / f"error {ranks} {rank}").write_text(str(error))
    distributed.destroy_process_group()


def _full(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_ranks_goes_on_where_another_stopped(base, kind):
    unbroken, resumed, start = (policy(load(base / "base", **KINDS[kind])) for _ in range(3))
    learn(unbroken, steps=5)
    resumed.load_state(base / kind / "4")  # 1 process, then 2 ranks, then 4, then 1
    steps = {float(state["step"]) for state in resumed.optimizer.state.values()}
    assert steps == {4.0}
    learn(resumed, steps=1, first=4)
    assert distance(resumed.parameters, unbroken.parameters, start.parameters) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_write_the_model_that_one_process_writes(base, kind, ranks, tmp_path):
    one = policy(load(base / "base", **KINDS[kind]))
    one.load_state(base / kind / str(ranks))
    one.export(tmp_path / "one", DATA)
    written = base / kind / f"{MODEL} {ranks}"
    index = json.loads((written / "model.safetensors.index.json").read_text())["weight_map"]
    files = {path.name: load_file(path) for path in written.glob("*.safetensors")}
    assert set(index.values()) == set(files) and len(files) > ranks
    assert index == {name: file for file, held in files.items() for name in held}
    tensors = {name: weight for held in files.values() for name, weight in held.items()}
    expected = load_file(tmp_path / "one" / "model.safetensors")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    loaded = AutoModelForImageTextToText.from_pretrained(written).state_dict()
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "one").state_dict()
    assert all(torch.equal(loaded[name], plain[name]) for name in plain)
    others = {path.name for path in (tmp_path / "one").iterdir()} - {"model.safetensors"}
    for name in others:
        if (written / name).is_file():
            assert (written / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert others == {path.name for path in written.iterdir()} - {*files, "model.safetensors.index.json"}
    # A rank holds one file at a time, none larger than asked but for one weight.
    sizes = {file: sum(weight.nbytes for weight in held.values()) for file, held in files.items()}
    largest = max(weight.nbytes for weight in expected.values())
    assert max(sizes.values()) <= (1 << 16) + largest


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_disk_that_is_full_on_one_rank_is_one_line_on_all_and_leaves_nothing(base, ranks):
    for rank in range(ranks):
        said = (base / f"error {ranks} {rank}").read_text()
        assert said.startswith("cannot write the model to") and "No space left on device" in said
    assert not [path for path in base.iterdir() if "never" in path.name]
