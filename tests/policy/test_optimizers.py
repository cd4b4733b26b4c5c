"""Optimizers with moments in 8 bits against plain AdamW, and how all of them resume."""

import sys

import pytest
import torch
from learning import assert_resumes, distance, equal, learn, load, policy, wide_checkpoint

from observe_r1.errors import UserError
from observe_r1.run.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return wide_checkpoint(tmp_path_factory.mktemp("optimizers"))


def test_moments_in_8_bits_take_nearly_the_same_steps(checkpoint):
    plain, small = policy(load(checkpoint)), policy(load(checkpoint), kind="adamw_8bit")
    learn(plain, steps=6)
    learn(small, steps=6)
    assert 0 < distance(small.parameters, plain.parameters, load(checkpoint).model.parameters()) < 0.1
    for parameter, state in small.optimizer.state.items():
        bits = torch.uint8 if parameter.numel() >= 4096 else torch.float32
        assert (state["state1"].dtype, state["state2"].dtype, state["step"]) == (bits, bits, 6)
    assert any(parameter.numel() >= 4096 for parameter in small.parameters)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("offload", [False, True])
def test_every_optimizer_resumes_bit_by_bit(checkpoint, tmp_path, kind, offload):
    assert_resumes(lambda: policy(load(checkpoint), kind=kind, offload=offload), tmp_path)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_parameters_that_never_had_a_gradient_are_no_obstacle(checkpoint, tmp_path, kind):
    """Without images the image tower has none, and Adam no state for it."""
    vlm = load(checkpoint)
    trained, resumed = policy(vlm, kind=kind), policy(load(checkpoint), kind=kind)
    learn(trained, grids=())
    assert len(trained.optimizer.state) < len(trained.parameters)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, trained, {}, {"x": torch.zeros(1)})
    checkpoints.finish()
    assert Checkpoints(tmp_path, keep=1).load_newest(resumed, print)
    learn(trained, first=3)
    learn(resumed, first=3)
    assert equal(resumed.parameters, trained.parameters)


def test_without_bitsandbytes_the_extra_is_named(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"optimizer\.kind = 'adamw_8bit' needs bitsandbytes: pip install -e '\.\["):
        policy(load(checkpoint), kind="adamw_8bit")
