"""The loss, its gradient and the clipped share against TRL's own GRPO loss on the same random tensors."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from observe_r1.config import ObjectiveSettings
from observe_r1.objective import constant_length, policy_loss, sequence_mean, token_mean

LENGTHS = torch.tensor([3, 7, 1, 5, 7, 2])
MAX_LENGTH = 9
MASK = torch.arange(7)[None, :] < LENGTHS[:, None]


def random_case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    old, noise, reference_noise = torch.randn(3, *MASK.shape, dtype=torch.float64, generator=generator)
    advantages = torch.randn(len(LENGTHS), dtype=torch.float64, generator=generator)
    return old - 2, old - 2 + 0.4 * noise, old - 2 + 0.4 * reference_noise, advantages


def trl_loss(
    loss_type: str, logprobs: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, beta: float
) -> tuple[Tensor, float]:
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, torch.zeros_like(logprobs), None),
        _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=False,
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        aux_loss_enabled=False,
        beta=beta,
        current_gradient_accumulation_steps=1,
        epsilon_high=0.28,
        epsilon_low=0.2,
        importance_sampling_level="token",
        loss_type=loss_type,
        max_completion_length=MAX_LENGTH,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
    )
    ids = torch.zeros_like(MASK, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": MASK.long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": LENGTHS.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    return loss, trainer._metrics["train"]["clip_ratio/region_mean"][0]


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(
    ("loss_type", "aggregate"),
    [("bnpo", token_mean), ("dapo", token_mean), ("grpo", sequence_mean), ("dr_grpo", constant_length)],
)
def test_loss_gradient_and_clipped_share_equal_trls(loss_type, aggregate, beta):
    old, logprobs, reference, advantages = random_case(seed=3)
    theirs, ours = logprobs.clone().requires_grad_(), logprobs.clone().requires_grad_()

    their_loss, their_clipped = trl_loss(loss_type, theirs, old, reference, advantages, beta)
    their_loss.backward()

    flat = ours[MASK]
    per_token = advantages.repeat_interleave(LENGTHS)
    weights = aggregate(LENGTHS, MAX_LENGTH).repeat_interleave(LENGTHS)
    our_loss, sums = policy_loss(
        flat,
        per_token,
        weights,
        old[MASK],
        ObjectiveSettings(clip_low=0.2, clip_high=0.28, kl_estimator="k3"),
        old_logprobs=old[MASK],
        reference_logprobs=reference[MASK] if beta else None,
        kl_weights=beta * weights if beta else None,
    )
    our_loss.backward()

    assert 0 < their_clipped < 1
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    assert sums["clip_fraction"].item() / len(flat) == pytest.approx(their_clipped)
