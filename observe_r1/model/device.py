"""Where the model computes, in which number type, and how tensors get there."""

from typing import TypeVar

import torch
from torch import Tensor
from torch.distributed import DistError

from observe_r1.config import EvaluateSettings, LadderSettings, ModelSettings, SFTSettings, TrainSettings
from observe_r1.config.ladder import LadderModelSettings
from observe_r1.errors import UserError

MACHINE_FAULTS = (torch.OutOfMemoryError, torch.AcceleratorError, DistError)
"""What torch raises for want of memory, for what a GPU or its driver cannot do, and for a connection between ranks: of
a model that cannot compute they say nothing."""

_Settings = TypeVar("_Settings", TrainSettings, SFTSettings, LadderSettings, EvaluateSettings)


def choose_device(name: str) -> torch.device:
    """Return the device that `model.device` names; `auto` is the first GPU, or the CPU if there is none.

    Args:
        name: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: `cuda` is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device = 'cuda': no CUDA device is available; use 'cpu' or 'auto'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def compute_dtype(settings: ModelSettings | LadderModelSettings) -> torch.dtype:
    """Return the compute type that `model.dtype` names.

    `auto` is bfloat16 on a GPU that multiplies it (compute capability 8.0 or newer), where float32 takes about ten
    times as long, and float32 elsewhere: older GPUs and most CPUs only emulate bfloat16.

    Raises:
        UserError: `model.device` is `cuda` and there is none.
    """
    if settings.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]
    device = choose_device(settings.device)
    return torch.bfloat16 if device.type == "cuda" and has_tensor_cores(device) else torch.float32


def has_tensor_cores(device: torch.device) -> bool:
    """Whether the GPU `device` multiplies bfloat16: what FlashAttention needs, too."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def with_dtype(settings: _Settings) -> _Settings:
    """Return a verb's `settings` with the type that `model.dtype: auto` is on this machine.

    A run records it, so that one that is resumed on another machine is not continued in another type unnoticed.

    Raises:
        UserError: `model.device` is `cuda` and there is none, or those there are belong to other machines.
    """
    asked, cluster = settings.model, getattr(settings, "cluster", None)
    elsewhere = cluster is not None and cluster.address is not None and not torch.cuda.is_available()
    if elsewhere and (asked.device, asked.dtype) == ("cuda", "auto"):
        raise UserError(
            "model.dtype = 'auto': this machine has no GPU to ask what those of the cluster multiply fast: give "
            "bfloat16 (Ampere or newer), or float32"
        )
    name = str(compute_dtype(asked)).removeprefix("torch.")
    return settings.model_copy(update={"model": settings.model.model_copy(update={"dtype": name})})


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy `tensor` to `device`; to a GPU from page-locked memory, so that work already queued there is not waited for.

    A copy from pageable memory first synchronises the stream ("API synchronization behavior", CUDA runtime manual).
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Pinning keeps strides, and an expanded tensor's would overlap.
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
