"""How tensors travel between the processes of a run: their own bytes, copied once into Ray's store and read from there.

As torch pickles a tensor, it takes its whole storage along: a rollout's log-probabilities, cut into groups, would
travel once for each group. The bytes are copied five times, too, at a third of a gigabyte a second.
"""

import warnings
from typing import Any

import ray
import torch
from torch import Tensor


def carry_tensors() -> None:
    """From now on send tensors like that from this process; those that receive them must not write to them."""
    ray.util.register_serializer(Tensor, serializer=to_bytes, deserializer=from_bytes)


def to_bytes(tensor: Tensor) -> tuple[Any, str, tuple[int, ...]]:
    """Return a tensor's bytes as an array, which pickle passes on uncopied, its type and its shape."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy(), str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def from_bytes(sent: tuple[Any, str, tuple[int, ...]]) -> Tensor:
    """Return the tensor that `to_bytes` took apart, on the CPU and in the memory that the bytes are in."""
    array, dtype, shape = sent
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor is it written to
        return torch.from_numpy(array).view(getattr(torch, dtype)).reshape(shape)
