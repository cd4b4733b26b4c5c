"""The model being trained: gives log-probabilities and takes optimizer steps."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from observe_r1 import registry
from observe_r1.config import DataSettings, ObjectiveSettings, OptimizerSettings
from observe_r1.errors import UserError
from observe_r1.model.device import to_device
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.model.saving import save_model
from observe_r1.objective import policy_loss
from observe_r1.policy.master_weights import MasterWeights
from observe_r1.policy.packing import Pack, select
from observe_r1.policy.state import StateWriting, load_state, save_state
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.records import Group, TrainingBatch, TrainingGroup


class Policy:
    """Local policy: one process, one device, float32 master weights, the optimizer that the settings name.

    Args:
        vlm: The model. Weights that are trained are float32; where `dtype` is another type, or with
            `optimizer.offload`, they become copies of their `MasterWeights`.
        optimizer: The optimizer, and how a batch is split into packs.
        objective: Clip bounds and KL of the loss.
        temperature: Of the distribution that responses are sampled from.
        dtype: Compute type; weights that are not trained are held in it already.

    Raises:
        UserError: No parameter is trained.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        optimizer: OptimizerSettings,
        objective: ObjectiveSettings,
        *,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.vlm = vlm
        self.settings = optimizer
        self.objective = objective
        self.dtype = dtype
        self.masters: MasterWeights | None = None
        self.writers: ProcessGroup | None = None
        """Of the threads that write checkpoints, if there are several ranks."""
        self._start(temperature)
        self.weights = vlm.model if self.masters is None else self.masters
        """The module whose parameters the optimizer steps and checkpoints hold."""
        self.parameters = [p for p in self.weights.parameters() if p.requires_grad]
        if not self.parameters:
            raise UserError("model.freeze leaves no parameter to train")
        self.optimizer = registry.load("optimizer", optimizer.kind)(self.parameters, optimizer)

    def _start(self, temperature: float) -> None:
        """Make the source of log-probabilities, and masters if the model computes with copies of them."""
        self.logprob_model = LogprobModel(self.vlm, self.settings, temperature=temperature)
        if self.settings.offload or self.dtype != torch.float32:
            self.masters = MasterWeights(self.vlm, self.dtype, offload=self.settings.offload)

    def logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return the log-probabilities of each group's response tokens; see `LogprobModel.logprobs`."""
        return self.logprob_model.logprobs(groups)

    def update(self, batch: TrainingBatch) -> dict[str, float]:
        """Take one optimizer step on the batch's loss, the sum of `objective.policy_loss` over its packs.

        Groups without any weight in the loss are left out; a batch of nothing else takes no step.

        Args:
            batch: Whole groups, all with the same streams.

        Returns:
            Metrics by name: means over the response tokens, the loss, and the gradient's norm before it was clipped.

        Raises:
            UserError: The loss or the gradient is not finite; the weights are then as before.
        """
        groups = [group for group in batch.groups if _teaches(group)]
        totals = UpdateTotals()
        if not groups:
            return totals.metrics(grad_norm=0.0, lr=batch.learning_rate)
        try:
            for pack in self.logprob_model.packs([each.group for each in groups]):
                self._accumulate(pack, groups, totals)
            if self.masters is not None:
                self.masters.collect()
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
            grad_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
            totals.join(self.logprob_model)
            metrics = totals.metrics(grad_norm, lr=batch.learning_rate)
            if not math.isfinite(metrics["policy/loss"]) or not math.isfinite(grad_norm):
                raise UserError(
                    f"the loss ({metrics['policy/loss']}) or its gradient's norm ({grad_norm}) is not finite: "
                    "lower optimizer.lr, or compute in float32 (model.dtype)"
                )
            for group in self.optimizer.param_groups:
                group["lr"] = batch.learning_rate
            if not self.optimizer.state:
                # Its moments last as long as the run. Torch would cut them out of what activations have left, and could
                # give none of those blocks back to vLLM (`should_split` in c10/cuda/CUDACachingAllocator.cpp).
                torch.cuda.empty_cache()
            self.optimizer.step()
        finally:
            self.optimizer.zero_grad(set_to_none=True)  # sampling comes next and can use their memory
        self.publish()
        return metrics

    def publish(self) -> None:
        """Let the model compute with the weights that the optimizer or a checkpoint has just written."""
        if self.masters is not None:
            self.masters.publish()

    def save_state(self, folder: Path, *, copy: bool) -> StateWriting:
        """Begin to write trained weights and optimizer state; see `policy.state`."""
        return save_state(self, folder, copy=copy)

    def load_state(self, folder: Path) -> None:
        """Read trained weights and optimizer state; see `policy.state`."""
        load_state(self, folder)

    def export(self, folder: Path, data: DataSettings) -> None:
        """Write the model as an ordinary checkpoint; see `save_model`."""
        save_model(self.vlm, folder, data)

    def _accumulate(self, pack: Pack, groups: Sequence[TrainingGroup], totals: "UpdateTotals") -> None:
        """Add one pack's gradient and metrics."""

        def tokens(streams: Sequence[Tensor]) -> Tensor:
            return to_device(select(streams, [each.group for each in groups], pack.spans), self.vlm.device)

        old = [each.old_logprobs for each in groups if each.old_logprobs is not None]
        reference = [each.reference_logprobs for each in groups if each.reference_logprobs is not None]
        kl_weights = [each.kl_weights for each in groups if each.kl_weights is not None]
        scores = self.logprob_model.score(pack)
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
        if loss.requires_grad:  # texts under a frozen text model have no gradient if a part of the tower is trained
            (loss * pack.share).backward()
        assert scores.entropy is not None
        sums |= {"entropy": scores.entropy.sum().double(), "tokens": torch.full_like(sums["loss"], len(pack.targets))}
        totals.add({name: value * pack.share for name, value in sums.items()})


class UpdateTotals:
    """Sums over an update's packs, divided by tokens at the end.

    They stay on the device until then: reading one waits for everything that is queued there.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, sums: dict[str, Tensor]) -> None:
        """Add one pack's sums over its response tokens by name, scalars; `tokens` is their number."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def join(self, model: LogprobModel) -> None:
        """Add the sums of all who run `model` together."""
        self.sums = dict(zip(self.sums, model.joined(torch.stack(list(self.sums.values()))).unbind(), strict=True))

    def metrics(self, grad_norm: float, lr: float) -> dict[str, Any]:
        """Return means over the update's response tokens, with the loss as it was minimised."""
        sums = {"loss": 0.0, "tokens": 0.0}
        if self.sums:
            sums = dict(zip(self.sums, torch.stack(list(self.sums.values())).tolist(), strict=True))
        loss, tokens = sums.pop("loss"), sums.pop("tokens")
        return {f"policy/{name}": value / tokens for name, value in sums.items()} | {
            "policy/loss": loss,
            "policy/grad_norm": grad_norm,
            "policy/lr": lr,
            "policy/tokens": int(tokens),
        }


def _teaches(group: TrainingGroup) -> bool:
    """Whether any token of the group has a weight in the loss."""
    in_kl = group.kl_weights is not None and bool(group.kl_weights.any())
    return in_kl or bool((group.token_advantages * group.loss_weights).any())
