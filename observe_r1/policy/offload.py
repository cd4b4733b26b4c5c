"""Master weights and optimizer state in the CPU's memory, after ZeRO-Offload (arXiv 2101.06840), for one device.

The device holds the trained weights in the compute type only. Each gradient goes to the CPU, in float32, as soon as the
backward pass has it, and leaves the device: no two of them are there at once.
"""

from functools import partial

import torch
from torch import Tensor, nn

from observe_r1.model.loading import VisionLanguageModel


class MasterWeights(nn.Module):
    """Float32 copies of `vlm`'s trained weights on the CPU, under the same names; `vlm`'s own become `dtype`."""

    def __init__(self, vlm: VisionLanguageModel, dtype: torch.dtype) -> None:
        super().__init__()
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        for name, parameter in vlm.model.named_parameters():
            if parameter.requires_grad:
                master = nn.Parameter(parameter.detach().to("cpu", torch.float32, copy=True))
                self._place(name, master)
                self._pairs.append((parameter, master))
                vlm.masters[name] = master.detach()
                parameter.data = parameter.data.to(dtype)
                parameter.register_post_accumulate_grad_hook(partial(_hand_over, master))

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the master weights to the device, rounded to its type."""
        for parameter, master in self._pairs:
            parameter.copy_(master)

    def _place(self, name: str, master: nn.Parameter) -> None:
        """Register `master` under a dotted name, which checkpoints then give it as they would without offload."""
        *path, last = name.split(".")
        module: nn.Module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, master)


def _hand_over(master: nn.Parameter, parameter: Tensor) -> None:
    """Add the device's gradient to the master's."""
    assert parameter.grad is not None
    gradient = parameter.grad.to("cpu", torch.float32)
    master.grad = gradient if master.grad is None else master.grad.add_(gradient)
    parameter.grad = None
