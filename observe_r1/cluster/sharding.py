"""The policy's one forward, sharded by FSDP2: every rank holds a part of each weight, gathered layer by layer.

Each text layer, each block of a trained image tower and the embeddings are gathered by themselves. Head, norms, merger
and patch embedding belong to the root and stay gathered for the whole forward, which calls the model's parts one by
one. The sharded parameters are the masters that the optimizer steps: float32, while layers compute in `dtype` (arXiv
2304.11277).

Gradients add up over ranks and are never averaged: the loss is a plain sum over the batch. Each weight's gradient
leaves a backward pass in float32, as it does on one device (`policy.master_weights`).

A frozen tower is not sharded: each rank holds it whole and runs it on the images that it does not know yet, which the
others need not wait for. Weights that bitsandbytes has quantized stay whole, too: their scales belong to the whole.
"""

from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from observe_r1.config import ClusterSettings
from observe_r1.errors import UserError
from observe_r1.model.filling import fill_model, is_empty
from observe_r1.model.forward import trains_tower
from observe_r1.policy.token_logprobs import TokenLogprobs


def policy_mesh(cluster: ClusterSettings, device_type: str, per_machine: int | None = None) -> DeviceMesh:
    """Arrange all ranks of the process group: copies of the weights, each on `cluster.shard` ranks in a row.

    Args:
        cluster: Its `shard`; by default the ranks of one machine, or all where machines have unlike numbers.
        device_type: `cuda` or `cpu`, where the ranks compute.
        per_machine: Ranks on each machine, numbered machine by machine; None if all are on one.

    Returns:
        One dimension, `shard`, or two, `copies` and `shard`, if there is more than one copy (HSDP).

    Raises:
        UserError: `cluster.shard` does not divide the ranks.
    """
    ranks = distributed.get_world_size()
    size = cluster.shard
    if size is None:
        size = per_machine if per_machine and ranks % per_machine == 0 else ranks
    if ranks % size:
        raise UserError(
            f"cluster.shard = {size}: the policy has {ranks} ranks, which make no whole copies: take a divisor"
        )
    if size == ranks:
        return init_device_mesh(device_type, (ranks,), mesh_dim_names=("shard",))
    return init_device_mesh(device_type, (ranks // size, size), mesh_dim_names=("copies", "shard"))


def shard(score: TokenLogprobs, mesh: DeviceMesh, *, dtype: torch.dtype, reshard: bool, offload: bool) -> None:
    """Shard the model of `score` in place.

    Args:
        score: Of an empty model each rank reads its own shards from the checkpoint, so that none holds the whole.
        mesh: Of `policy_mesh`.
        dtype: Compute type; float32 leaves every weight in its own.
        reshard: `cluster.reshard`.
        offload: Keep shards, gradients and the optimizer's state in the CPU's memory.
    """
    model = score.model
    text, tower = model.model.language_model, model.model.visual
    whole = {weight for weight in model.parameters() if not weight.is_floating_point()}
    parts = [*text.layers]
    if trains_tower(model):
        parts = [*tower.blocks, *parts]
    else:
        whole |= set(tower.parameters())
    if model.lm_head.weight is not text.embed_tokens.weight:
        parts.append(text.embed_tokens)
    narrow = dtype != torch.float32
    # Inputs keep their types: a rotary embedding is float32 beside a state in bfloat16.
    types = MixedPrecisionPolicy(
        param_dtype=dtype if narrow else None,
        reduce_dtype=torch.float32 if narrow else None,
        cast_forward_inputs=False,
    )
    place = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy()
    common: dict[str, Any] = {"mesh": mesh, "mp_policy": types, "offload_policy": place, "ignored_params": whole}
    for part in parts:
        fully_shard(part, reshard_after_forward=reshard, **common)
    fully_shard(score, reshard_after_forward=False, **common)
    if is_empty(model):
        fill_model(model, score.vlm.device, offload=offload)
    for module in sharded_modules(score):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no sum that multiplies first
        if narrow:
            _gather_gradients_in_float32(module)


def sharded_modules(module: nn.Module) -> list[FSDPModule]:
    """Return the modules whose weights are gathered together."""
    return [each for each in module.modules() if isinstance(each, FSDPModule)]


def gathered_together(module: nn.Module) -> list[list[DTensor]]:
    """Return the sharded weights of each of `sharded_modules`, those of `module` itself last."""
    parts: list[Any] = [part for part in sharded_modules(module) if part is not module]
    found = [list(part.parameters()) for part in parts]
    inner = {id(weight) for part in found for weight in part}
    found.append([weight for weight in module.parameters() if id(weight) not in inner])
    return [[weight for weight in part if isinstance(weight, DTensor)] for part in found]


def _gather_gradients_in_float32(module: FSDPModule) -> None:
    """Else autograd adds up the parts of a gradient (of tied weights, of the head's chunks) in bfloat16."""
    assert isinstance(module, nn.Module)
    module.unshard()
    for weight in module.parameters():
        if weight.requires_grad and not isinstance(weight, DTensor):
            weight.grad_dtype = torch.float32
    module.reshard()
