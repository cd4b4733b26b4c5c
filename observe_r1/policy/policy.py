"""The model being trained: scores groups and takes optimizer steps."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from observe_r1 import registry
from observe_r1.config import ObjectiveSettings, OptimizerSettings
from observe_r1.errors import UserError
from observe_r1.model.device import to_device
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.objective import policy_loss
from observe_r1.policy.packing import Pack, select
from observe_r1.policy.token_logprobs import GroupScorer
from observe_r1.records import Group, TrainingBatch, TrainingGroup

# Master weights and optimizer state in the CPU's memory, after ZeRO-Offload (arXiv 2101.06840), for one device.
#
# The device holds the trained weights in the compute type only. Each gradient goes to the CPU, in float32, as soon as
# the
# backward pass has it, and leaves the device: no two of them are there at once.


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


class Policy:
    """Local policy: one process, one device, float32 master weights, the optimizer that the settings name."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        optimizer: OptimizerSettings,
        objective: ObjectiveSettings,
        *,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings = optimizer
        self.objective = objective
        self.scorer = GroupScorer(vlm, optimizer, temperature=temperature, dtype=dtype)
        self.device = vlm.device
        self.weights = MasterWeights(vlm, dtype) if optimizer.offload else vlm.model
        """The module whose parameters the optimizer steps and checkpoints hold."""
        self.parameters = [p for p in self.weights.parameters() if p.requires_grad]
        if not self.parameters:
            raise UserError("model.freeze leaves no parameter to train")
        self.optimizer = registry.load("optimizer", optimizer.kind)(self.parameters, optimizer)

    def logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return the log-probabilities of each group's response tokens: one (T,) tensor a group, on the CPU."""
        return self.scorer.logprobs(groups)

    def update(self, batch: TrainingBatch) -> dict[str, float]:
        """Take one optimizer step on `batch` and return its metrics.

        Groups without any weight in the loss are left out; a batch of nothing else takes no step.
        Errors: `UserError` where the loss or the gradient is not finite; the weights are then as before.
        """
        groups = [group for group in batch.groups if _teaches(group)]
        totals = UpdateTotals()
        if not groups:
            return totals.metrics(grad_norm=0.0, lr=batch.learning_rate)
        try:
            for pack in self.scorer.packs([each.group for each in groups]):
                self._accumulate(pack, groups, totals)
            grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))
            metrics = totals.metrics(grad_norm, lr=batch.learning_rate)
            if not math.isfinite(metrics["policy/loss"]) or not math.isfinite(grad_norm):
                raise UserError(
                    f"the loss ({metrics['policy/loss']}) or its gradient's norm ({grad_norm}) is not finite: "
                    "lower optimizer.lr, or compute in float32 (model.dtype)"
                )
            for group in self.optimizer.param_groups:
                group["lr"] = batch.learning_rate
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad(set_to_none=True)  # sampling comes next and can use their memory
        self.publish()
        return metrics

    def publish(self) -> None:
        """Let the model compute with the weights that the optimizer or a checkpoint has just written."""
        if isinstance(self.weights, MasterWeights):
            self.weights.publish()

    def _accumulate(self, pack: Pack, groups: Sequence[TrainingGroup], totals: "UpdateTotals") -> None:
        """Add one pack's gradient and metrics."""

        def tokens(streams: Sequence[Tensor]) -> Tensor:
            return to_device(select(streams, [each.group for each in groups], pack.spans), self.device)

        old = [each.old_logprobs for each in groups if each.old_logprobs is not None]
        reference = [each.reference_logprobs for each in groups if each.reference_logprobs is not None]
        kl_weights = [each.kl_weights for each in groups if each.kl_weights is not None]
        scores = self.scorer.score(pack)
        loss, sums = policy_loss(
            scores.logprobs,
            advantages=tokens([each.token_advantages for each in groups]),
            weights=tokens([each.loss_weights for each in groups]),
            sampler_logprobs=tokens([each.sampler_logprobs for each in groups]),
            objective=self.objective,
            old_logprobs=tokens(old) if old else None,
            reference_logprobs=tokens(reference) if reference else None,
            kl_weights=tokens(kl_weights) if kl_weights else None,
        )
        loss.backward()
        totals.add(len(pack.targets), sums | {"entropy": scores.entropy.sum().double()})


class UpdateTotals:
    """Sums over an update's packs, divided by tokens at the end.

    They stay on the device until then: reading one waits for everything that is queued there.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, tokens: int, sums: dict[str, Tensor]) -> None:
        """Add one pack of `tokens` response tokens."""
        self.tokens += tokens
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def metrics(self, grad_norm: float, lr: float) -> dict[str, Any]:
        """Return means over the update's response tokens, with the loss as it was minimised."""
        sums = {"loss": 0.0}
        if self.sums:
            sums = dict(zip(self.sums, torch.stack(list(self.sums.values())).tolist(), strict=True))
        loss = sums.pop("loss")
        return {f"policy/{name}": value / self.tokens for name, value in sums.items()} | {
            "policy/loss": loss,
            "policy/grad_norm": grad_norm,
            "policy/lr": lr,
            "policy/tokens": self.tokens,
        }


def _teaches(group: TrainingGroup) -> bool:
    in_kl = group.kl_weights is not None and bool(group.kl_weights.any())
    return in_kl or bool((group.token_advantages * group.loss_weights).any())
