"""Check that both sides compute the same: the race's condition, and what its test checks on a small size."""

from typing import Any

import torch

from observe_r1.records import TrainingBatch
from racing.our_side import OurSide, given_batch
from racing.trl_side import TRLSide


def same_update(ours: OurSide, peer: TRLSide) -> tuple[TrainingBatch, dict[str, Any]]:
    """Let the peer sample, and return its responses as a batch of ours and one of its own.

    Before that, two optimizer steps on each side show that the batches mean the same to both: one with the peer's whole
    head, one with its cut head. Advantages do not sum to zero, so that the loss is not zero either.

    Args:
        ours: our side.
        peer: TRL's, with weights and prompts that should be the same.

    Returns:
        Our batch and the peer's.

    Raises:
        SystemExit: where prompts differ, log-probabilities by over 1e-3, or loss or gradient norm by over 1 %.
    """
    theirs = peer.sample()
    prompts, size = ours.prompts, ours.settings.rollout.group_size
    advantages = torch.linspace(-1.0, 1.5, len(prompts) * size)
    real = theirs["completion_mask"].bool()
    responses = [ids[mask].cpu() for ids, mask in zip(theirs["completion_ids"], real, strict=True)]
    batch = given_batch(prompts, responses, advantages.view(-1, size))
    theirs["advantages"] = advantages.to(theirs["advantages"].device)
    for index, prompt in enumerate(prompts):
        padded = theirs["prompt_ids"][index * size]
        if padded[theirs["prompt_mask"][index * size].bool()].tolist() != prompt.ids.tolist():
            raise SystemExit(f"the two sides differ: prompt {index} has other tokens")
    for cut_head in (False, True):
        peer.cut_head(cut_head)
        scored = torch.cat(ours.policy.logprobs([each.group for each in batch.groups]))
        difference = scored - peer.logprobs(theirs)[real].cpu()
        if float(difference.abs().max()) > 1e-3:
            raise SystemExit(f"the two sides differ: log-probabilities by {float(difference.abs().max()):.2g}")
        mine, others = ours.update(batch), peer.update(theirs, cut_head=cut_head)
        for name in ("loss", "grad_norm"):
            if abs(mine[f"policy/{name}"] / others[name] - 1) > 0.01:
                raise SystemExit(f"the two sides differ: {name} is {mine[f'policy/{name}']:.4g} and {others[name]:.4g}")
    return batch, theirs
