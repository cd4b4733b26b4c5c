"""The memory that training takes, which an engine with weights of its own has to leave, and the weights it is given."""

from types import SimpleNamespace

import pytest
import torch
from memory import GIB, empty_model, qwen2_5_vl_3b
from tiny import random_model
from torch import nn

from observe_r1.config import ModelSettings, ObjectiveSettings, OptimizerSettings
from observe_r1.model.adapters import published_weights
from observe_r1.policy.policy import Policy
from observe_r1.training.weight_sync import CopiedWeights, training_memory

TEXT, TOWER = 3.085938688e9, 0.668684800e9
"""Published numbers of parameters of Qwen2.5-VL-3B (tied embeddings counted once)."""


def sized(**model):
    """Qwen2.5-VL-3B without memory, what is not trained in bfloat16."""
    made = empty_model(qwen2_5_vl_3b(), ModelSettings(path="x", **model))
    for parameter in made.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    return made


def policy(model, **optimizer):
    """As `Policy` holds it: the model in bfloat16, and float32 masters of what is trained, offloaded or not."""
    place = "cpu" if optimizer.get("offload") else "meta"
    masters, trained = nn.ParameterList(), [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        empty = torch.empty(1 if place == "cpu" else parameter.shape, device=place)
        masters.append(nn.Parameter(empty))
        parameter.data = parameter.data.to(torch.bfloat16)
    device = torch.device("meta")
    vlm = SimpleNamespace(model=model, features=SimpleNamespace(limit=GIB), device=device)
    settings = OptimizerSettings(**optimizer)
    optimizer = SimpleNamespace(state={})
    return SimpleNamespace(vlm=vlm, masters=masters, parameters=list(masters), settings=settings, optimizer=optimizer)


def billions(memory):
    """GB by name, to three decimals."""
    named = memory.held | memory.coming | memory.update
    return {name: round(size / 1e9, 3) for name, size in named.items()}


def test_full_training_with_a_reference():
    trained, frozen = policy(sized()), SimpleNamespace(vlm=SimpleNamespace(model=sized(freeze=("",))))
    everything = (TEXT + TOWER) / 1e9
    expected = {"weights": 2, "masters": 4, "reference": 2, "moments": 8, "gradients": 4}
    found = billions(training_memory(trained, frozen))
    assert found == pytest.approx({name: size * everything for name, size in expected.items()}, abs=2e-3)


def test_moments_in_8_bits_and_a_frozen_tower_with_features():
    found = billions(training_memory(policy(sized(freeze=("model.visual",)), kind="adamw_8bit"), None))
    text, tower = TEXT / 1e9, TOWER / 1e9
    expected = {"weights": 2 * (text + tower), "masters": 4 * text, "moments": 2 * text, "gradients": 4 * text}
    assert found == pytest.approx(expected | {"image features": GIB / 1e9}, abs=2e-3)


def test_adapters_take_little_and_are_their_own_reference():
    adapted = policy(sized(freeze=("model.visual",), lora_rank=32))
    found = training_memory(adapted, SimpleNamespace(vlm=adapted.vlm))
    trained = sum(p.numel() for p in adapted.parameters)
    assert round(trained / 1e6) == 60
    assert found.held == {"weights": 2 * (3_754_622_976 + trained), "masters": 4 * trained}
    assert found.coming["moments"] == 8 * trained and found.update == {"gradients": 4 * trained}


def test_offloaded_masters_take_nothing_of_the_device():
    found = billions(training_memory(policy(sized(), offload=True), None))
    gradients = 2 * (151936 * 2048 + 5120 * 5120 + 3 * 2048 * 11008) / 1e9  # embeddings, the tower's merger, the MLP
    expected = {"weights": 2 * (TEXT + TOWER) / 1e9, "masters": 0, "moments": 0, "gradients": gradients}
    assert found == pytest.approx(expected, abs=2e-3)


def test_a_policy_s_own_memory_is_what_is_counted():
    """Of a real one, on the CPU: every parameter of its model, its masters, and the moments after a step."""
    vlm = random_model(dtype=torch.float32)
    made = Policy(vlm, OptimizerSettings(), ObjectiveSettings(), dtype=torch.bfloat16)
    found = training_memory(made, None)
    numbers = sum(parameter.numel() for parameter in vlm.model.parameters())
    assert found.held == {"weights": 2 * numbers, "masters": 4 * numbers}
    for master in made.parameters:
        master.grad = torch.zeros_like(master)
    assert found.update == {"gradients": sum(master.grad.nbytes for master in made.parameters)}
    made.optimizer.step()
    moments = [state[name].nbytes for state in made.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert found.coming == {"moments": sum(moments)}


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
