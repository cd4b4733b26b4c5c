"""Float32 masters of the trained weights, if the model computes with rounded copies of them.

Adam's steps of 1e-6 would be lost in bfloat16 weights, so the optimizer steps float32 masters (mixed precision training
as in arXiv 1710.03740). The model itself holds bfloat16 alone: so its residual stream, norms and rotary embeddings are
bfloat16, and no forward casts a weight. Gradients add up in float32. Masters, gradients and optimizer state are in one
of two places:

    device    beside the model, 4 + 4 + 8 bytes per parameter; with the copy 18
    CPU       in the CPU's memory, where the optimizer then steps (ZeRO-Offload, arXiv 2101.06840); the device holds the
              copy, 2 bytes per parameter, and the gradients that are on their way
"""

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from observe_r1.model.loading import VisionLanguageModel

_SLOTS, _PIECE = 4, 1 << 25
"""Buffers of a `_Bus`, and numbers in each: 256 MiB of page-locked memory in bfloat16."""


class MasterWeights(nn.Module):
    """Float32 masters of `vlm`'s trained weights, under the same names; `vlm`'s own become copies in `dtype`.

    A backward pass leaves gradients in the masters' `grad`, none in the model's.

    Args:
        vlm: Its trained weights are changed in place, and its `masters` filled.
        dtype: Of the copies that the model computes with.
        offload: Keep masters and their gradients in the CPU's memory instead of on the model's device.
    """

    def __init__(self, vlm: VisionLanguageModel, dtype: torch.dtype, *, offload: bool) -> None:
        super().__init__()
        self._bus = _Bus(vlm.device, dtype) if offload else None
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        for name, copy in vlm.model.named_parameters():
            if not copy.requires_grad:
                continue
            master = nn.Parameter(copy.detach().to("cpu" if offload else vlm.device, torch.float32).contiguous())
            copy.data = copy.data.to(dtype, copy=True).contiguous()
            if self._bus is None:
                # Else autograd adds up the parts of a gradient (of tied weights, of the head's chunks) in bfloat16.
                copy.grad_dtype = torch.float32
                copy.register_post_accumulate_grad_hook(partial(_hand_over, master))
            else:
                copy.register_post_accumulate_grad_hook(partial(self._bus.fetch, master))
            self._place(name, master)
            self._pairs.append((copy, master))
            vlm.masters[name] = master.detach()

    def collect(self) -> None:
        """Wait until the masters have all gradients of the backward passes so far."""
        if self._bus is not None:
            self._bus.wait()

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model's copies."""
        if self._bus is not None:
            for copy, master in self._pairs:
                self._bus.send(copy, master)
        elif self._pairs:
            copies, masters = zip(*self._pairs, strict=True)
            torch._foreach_copy_(copies, masters)

    def _place(self, name: str, master: nn.Parameter) -> None:
        """Register `master` under a dotted name, so that checkpoints name it as they would name the weight itself."""
        *path, last = name.split(".")
        module: nn.Module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, master)


def _hand_over(master: nn.Parameter, copy: Tensor) -> None:
    """Add the copy's gradient to the master's."""
    assert copy.grad is not None
    master.grad = copy.grad if master.grad is None else master.grad.add_(copy.grad)
    copy.grad = None


class _Bus:
    """Carries gradients from a device to the CPU and weights back, while the device computes.

    Tensors travel in the device's type through a few page-locked buffers, `_PIECE` numbers at a time. Only copies from
    and to such memory are asynchronous ("API synchronization behavior", CUDA runtime manual), and buffers as large as
    the model would lock gigabytes. Gradients have a stream of their own. A buffer is free again when its copy is done,
    and its piece of a gradient is added to the master's. The backward pass waits only if all buffers are taken, so at
    most `_SLOTS` gradients are left on the device.

    On a CPU the same calls copy at once: the streams and events of `torch.cpu` do nothing.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = torch.get_device_module(device)
        self._stream = self._device.Stream()
        pinned = device.type == "cuda"
        self._free = [torch.empty(_PIECE, dtype=dtype, pin_memory=pinned) for _ in range(_SLOTS)]
        self._underway: deque[_Transfer] = deque()
        self._gradients: dict[nn.Parameter, Tensor] = {}
        """Of each master, kept from update to update: memory given back would be mapped anew, page by page, while the
        device waits."""

    def fetch(self, master: nn.Parameter, copy: Tensor) -> None:
        """Start to add the gradient of `copy`, on the device, to that of `master`, on the CPU."""
        assert copy.grad is not None
        gradient, copy.grad = copy.grad, None
        first = master.grad is None
        if master.grad is None:
            if master not in self._gradients:
                self._gradients[master] = torch.empty_like(master)
            master.grad = self._gradients[master]
        self._stream.wait_stream(self._device.current_stream())
        for piece, place in _pieces(gradient, master.grad):
            buffer = self._buffer()
            with self._device.stream(self._stream):
                buffer[: len(piece)].copy_(piece, non_blocking=True)
                self._start(buffer, _Arrival(gradient, place, first))

    def send(self, copy: Tensor, master: Tensor) -> None:
        """Start to copy `master`, on the CPU, to `copy`, on the device, ahead of what is queued there from now on."""
        for place, piece in _pieces(copy, master):
            buffer = self._buffer()
            buffer[: len(piece)].copy_(piece)
            place.copy_(buffer[: len(piece)], non_blocking=True)
            self._start(buffer)

    def wait(self) -> None:
        """Finish everything that was started."""
        while self._underway:
            self._finish_oldest()

    def _buffer(self) -> Tensor:
        """Take a free buffer, the one that was taken longest ago if there is none."""
        if not self._free:
            self._finish_oldest()
        return self._free.pop()

    def _start(self, buffer: Tensor, arrival: "_Arrival | None" = None) -> None:
        """Count the copy just queued on the current stream as on its way."""
        done = self._device.Event()
        done.record()
        self._underway.append(_Transfer(done, buffer, arrival))

    def _finish_oldest(self) -> None:
        done, buffer, arrival = self._underway.popleft()
        done.synchronize()
        if arrival is not None:
            piece = buffer[: len(arrival.place)]
            arrival.place.copy_(piece) if arrival.first else arrival.place.add_(piece)
        self._free.append(buffer)


class _Arrival(NamedTuple):
    """What becomes of a piece of a gradient."""

    gradient: Tensor
    """The whole on the device, whose memory must not be given away while it is read."""
    place: Tensor
    """Of the piece in the master's gradient."""
    first: bool
    """Whether it is the first there, and not added to another."""


class _Transfer(NamedTuple):
    """A copy on its way."""

    done: Any
    """The device's event behind it."""
    buffer: Tensor
    arrival: _Arrival | None
    """None for a weight."""


def _pieces(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both tensors, which are of one shape and contiguous, in pieces of `_PIECE` numbers."""
    return zip(one.view(-1).split(_PIECE), other.view(-1).split(_PIECE), strict=True)
