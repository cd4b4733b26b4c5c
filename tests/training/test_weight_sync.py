"""The memory that training takes, which an engine with weights of its own has to leave, and the weights it is given."""

from types import SimpleNamespace

import pytest
import torch
from memory import GIB, empty_model, qwen2_5_vl_3b
from tiny import random_model
from torch import nn

from observe_r1.config import ModelSettings, OptimizerSettings
from observe_r1.model.adapters import published_weights
from observe_r1.training.weight_sync import CopiedWeights, training_memory

TEXT, TOWER = 3.085938688e9, 0.668684800e9
"""Published numbers of parameters of Qwen2.5-VL-3B (tied embeddings counted once)."""


def sized(**model):
    """Qwen2.5-VL-3B without memory, in bfloat16."""
    made = empty_model(qwen2_5_vl_3b(), ModelSettings(path="x", **model))
    for parameter in made.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return made


def policy(model, weights=None, **optimizer):
    """What `Policy` holds in bfloat16: the model, and float32 masters of what is trained (`weights`)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = weights or nn.ParameterList(torch.empty_like(each, dtype=torch.float32) for each in trained)
    return SimpleNamespace(
        vlm=SimpleNamespace(model=model, device=torch.device("meta"), features=SimpleNamespace(limit=GIB)),
        weights=weights,
        parameters=list(weights.parameters()),
        settings=OptimizerSettings(**optimizer),
    )


def billions(memory):
    """GB by name, to three decimals."""
    named = memory.held | memory.coming | memory.update
    return {name: round(size / 1e9, 3) for name, size in named.items()}


def test_full_training_with_a_reference():
    trained, frozen = policy(sized()), SimpleNamespace(vlm=SimpleNamespace(model=sized(freeze=("",))))
    everything = (TEXT + TOWER) / 1e9
    expected = {"weights": 2 + 4, "reference": 2, "moments": 8, "gradients": 4}
    found = billions(training_memory(trained, frozen))
    assert found == pytest.approx({name: size * everything for name, size in expected.items()}, abs=2e-3)


def test_moments_in_8_bits_and_a_frozen_tower_with_features():
    found = billions(training_memory(policy(sized(freeze=("model.visual",)), kind="adamw_8bit"), None))
    text, tower = TEXT / 1e9, TOWER / 1e9
    expected = {"weights": (2 + 4) * text + 2 * tower, "moments": 2 * text, "gradients": 4 * text}
    assert found == pytest.approx(expected | {"image features": GIB / 1e9}, abs=2e-3)


def test_adapters_take_little_and_are_their_own_reference():
    adapted = policy(sized(freeze=("model.visual",), lora_rank=32))
    found = training_memory(adapted, SimpleNamespace(vlm=adapted.vlm))
    trained = sum(p.numel() for p in adapted.parameters)
    assert found.held.keys() == {"weights"} and round(found.held["weights"] / 1e9, 2) == 7.87
    assert found.coming["moments"] == 8 * trained and found.update == {"gradients": 4 * trained}


def test_offloaded_masters_take_one_gradient_at_a_time():
    found = billions(training_memory(policy(sized(), nn.Linear(2, 2)), None))
    embeddings = 151936 * 2048 * 2 / 1e9  # the largest tensor
    expected = {"weights": 2 * (TEXT + TOWER) / 1e9, "moments": 0, "gradients": embeddings}
    assert found == pytest.approx(expected, abs=2e-3)


def test_an_engine_is_given_the_model_s_own_weights_and_the_version():
    vlm, given = random_model(), {}
    engine = SimpleNamespace(version=0, load_weights=lambda weights: given.update(weights))
    CopiedWeights(engine, vlm).publish(3)
    own = dict(vlm.model.named_parameters(remove_duplicate=False))
    assert engine.version == 3 and given.keys() == own.keys()
    assert all(given[name].data_ptr() == own[name].data_ptr() and not given[name].requires_grad for name in own)


def test_merged_weights_exist_one_at_a_time_in_the_model_s_type():
    """On the device and in the compute type: of a model with adapters no second copy is ever made."""
    adapted = empty_model(qwen2_5_vl_3b(), ModelSettings(path="x", lora_rank=8))
    for name, parameter in adapted.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if ".lora_" in name else torch.bfloat16)
    weights = published_weights(adapted)
    names = {name for name, weight in weights if (weight.dtype, weight.device.type) == (torch.bfloat16, "meta")}
    with torch.device("meta"):
        assert names == empty_model(qwen2_5_vl_3b()).state_dict().keys()
    assert iter(weights) is weights
