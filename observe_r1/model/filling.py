"""Weights from a checkpoint's files into an empty model that may be sharded, where each rank reads its own rows alone.

`load_model` without weights describes the model; sharding an empty model takes no memory. So no rank ever holds more
than its shards and, while it reads them, a few slices of them. transformers' own loader does the reading
(`DtensorShardOperation` in its distributed/sharding_utils.py), by the names that it knows checkpoints to have.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from observe_r1.model.adapters import base_layers_in_place
from observe_r1.model.checkpoint import stored_weights


def is_empty(model: nn.Module) -> bool:
    """Whether `load_model` was called without weights, and nothing has filled the model since."""
    return any(parameter.is_meta for parameter in model.parameters())


def fill_model(model: PreTrainedModel, device: torch.device, *, offload: bool) -> None:
    """Read the weights of an empty model, bit for bit what `load_model` with weights would have made of them.

    Args:
        model: From `load_model` without weights, which has checked the files; whether it is sharded since or not.
            Parameters become other objects.
        device: Where weights and buffers go.
        offload: Sharded weights stay in the CPU's memory.

    Raises:
        UserError: As `stored_weights`.
    """
    transformers_logging.disable_progress_bar()
    place = f"model.path = {model.config.name_or_path!r}"
    empty = {name: parameter.requires_grad for name, parameter in model.named_parameters() if parameter.is_meta}
    tied = _tied(model)
    stored = {name: tensor for _, name, tensor in stored_weights(Path(model.config.name_or_path), place)}
    with base_layers_in_place(model):
        how = LoadStateDictConfig(device_map={"": device}, weight_mapping=get_model_conversion_mapping(model))
        convert_and_load_state_dict_in_model(model, stored, how)
    for name, trained in empty.items():
        weight = _own(model.get_parameter(name).detach(), offload=offload)
        _put(model, name, nn.Parameter(weight, requires_grad=trained))
    for name, first in tied.items():
        _put(model, name, model.get_parameter(first))
    _fill_buffers(model, device)


def _tied(model: PreTrainedModel) -> dict[str, str]:
    """Return the further names of weights that have several, with their first."""
    first: dict[Tensor, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: first[weight] for name, weight in named if first.setdefault(weight, name) != name}


def _own(weight: Tensor, *, offload: bool) -> Tensor:
    """Return a weight in memory of its own: what is read onto the CPU in the type of the file is a view of it."""
    if not isinstance(weight, DTensor):
        return _apart(weight)
    mesh, placements, own = weight.device_mesh, weight.placements, _apart(weight.to_local())
    part = DTensor.from_local(own, mesh, placements, run_check=False, shape=weight.shape, stride=weight.stride())
    return part.to("cpu") if offload else part


def _apart(weight: Tensor) -> Tensor:
    return weight.clone() if weight.device.type == "cpu" else weight


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, parameter)


def _fill_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Compute what is in no file: frequencies of rotary embeddings, by the modules' own initialisation."""
    for module in model.modules():
        empty = [(name, buffer) for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name, buffer in empty:
            setattr(module, name, torch.empty_like(buffer, device="cpu"))
        if empty:
            model._init_weights(module)
        for name, _ in empty:
            setattr(module, name, getattr(module, name).to(device))
