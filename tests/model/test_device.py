"""Where a model computes and in which type: what `auto` is on a machine, and that a run records it."""

import pytest
import torch
import yaml

from observe_r1.config import LadderSettings, ModelSettings, SFTSettings, TrainSettings
from observe_r1.errors import UserError
from observe_r1.model.device import compute_dtype, with_dtype
from observe_r1.run.folder import RunFolder

GPUS = {"none": None, "Turing": (7, 5), "Ampere": (8, 0), "Hopper": (9, 0)}


@pytest.fixture
def machine(monkeypatch):
    """Return a function that pretends there is this GPU."""

    def pretend(gpu):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: GPUS[gpu] is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: GPUS[gpu])

    return pretend


@pytest.mark.parametrize(
    ("gpu", "device", "dtype", "expected"),
    [
        ("none", "auto", "auto", torch.float32),
        ("none", "cpu", "auto", torch.float32),
        ("Hopper", "auto", "auto", torch.bfloat16),
        ("Ampere", "cuda", "auto", torch.bfloat16),
        ("Ampere", "cpu", "auto", torch.float32),
        ("Turing", "auto", "auto", torch.float32),  # it has no bfloat16
        ("Hopper", "auto", "float32", torch.float32),
        ("none", "auto", "bfloat16", torch.bfloat16),
        ("none", "cuda", "bfloat16", torch.bfloat16),  # that there is none is said where the model is placed
    ],
)
def test_auto_is_the_fast_type_of_the_device(machine, gpu, device, dtype, expected):
    machine(gpu)
    assert compute_dtype(ModelSettings(path="m", device=device, dtype=dtype)) == expected


def test_auto_is_the_default_of_every_verb_and_is_settled_once(machine):
    machine("Hopper")
    model, data = {"path": "m"}, {"path": "d"}
    for settings in (TrainSettings(model=model, data=data), SFTSettings(model=model, data=data), LadderSettings()):
        settled = with_dtype(settings)
        assert (settings.model.dtype, settled.model.dtype) == ("auto", "bfloat16")
        machine("none")
        assert with_dtype(settled) == settled
        machine("Hopper")


def test_a_run_records_its_type_and_is_not_resumed_in_another(machine, tmp_path):
    def settings():
        return with_dtype(TrainSettings(model={"path": "m"}, data={"path": "d"}))

    machine("Hopper")
    with RunFolder(tmp_path / "run", settings()) as folder:
        assert yaml.safe_load((folder.path / "config.yaml").read_text())["model"]["dtype"] == "bfloat16"
        folder.metrics.write_text('{"step": 1}\n')
    machine("none")
    with pytest.raises(UserError, match=r"model\.dtype was 'bfloat16' and is 'float32' now: give the same settings"):
        RunFolder(tmp_path / "run", settings(), resume=True)
    machine("Ampere")
    with RunFolder(tmp_path / "run", settings(), resume=True):
        pass


def test_a_gpu_that_is_missing_is_one_line(machine):
    machine("none")
    with pytest.raises(UserError, match=r"model\.device = 'cuda': no CUDA device is available"):
        compute_dtype(ModelSettings(path="m", device="cuda"))
