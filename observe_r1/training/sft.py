"""Supervised fine-tuning: the warm start that teaches the response format.

Its gradient is the policy gradient of given responses whose advantage is 1, taken against the policy's own
log-probabilities: ∇(−ρ·1) = −∇ log π where ρ = 1. So the update, with its packing and chunked head, is the policy's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from observe_r1.config import SFTSettings
from observe_r1.errors import UserError
from observe_r1.objective import token_advantages, token_mean
from observe_r1.policy.optimizers import learning_rate
from observe_r1.policy.policy import Policy
from observe_r1.records import Completion, Example, Group, Prompt, TrainingBatch, TrainingGroup
from observe_r1.training.prompts import PromptStream
from observe_r1.training.sampler import Now, unseen


def demonstration(example: Example, prompt: Prompt, tokenizer: Any) -> Group:
    """Return a group of one: the example's assistant turn as if it had been sampled.

    Errors: `UserError` for an example without an assistant turn.
    """
    if example.response is None:
        raise UserError(f"{example.origin}: no assistant turn at the end of the chat; supervised fine-tuning needs one")
    ids = [*tokenizer(example.response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    completion = Completion(
        ids=torch.tensor(ids), logprobs=torch.zeros(len(ids)), text=example.response, version=0, finish="stop"
    )
    return Group(
        example=example,
        prompt=prompt,
        completions=(completion,),
        rewards=torch.ones(1),
        correct=torch.ones(1, dtype=torch.bool),
        bonus=torch.zeros(1),
        weight=1.0,
        advantages=torch.ones(1),
    )


def sft_batch(groups: Sequence[Group], lr: float) -> TrainingBatch:
    """Return the batch whose loss has the gradient of the mean negative log-likelihood over response tokens."""
    lengths = torch.tensor([n for group in groups for n in group.lengths])
    shares = token_mean(lengths, int(lengths.max())).float()
    weights = shares.repeat_interleave(lengths).split(lengths.tolist())
    training = [
        TrainingGroup(g, token_advantages(g.advantages, g.lengths), w, sampler_logprobs=g.completions[0].logprobs)
        for g, w in zip(groups, weights, strict=True)
    ]
    return TrainingBatch(tuple(training), lr)


def fine_tune(
    policy: Policy,
    stream: PromptStream,
    tokenizer: Any,
    settings: SFTSettings,
    steps: int,
    on_step: Callable[[int, dict[str, float]], None],
    stopped: Callable[[], bool],
    step: int = 0,
    now: Now = unseen,
) -> None:
    """Go from `step` to `steps` optimizer steps of `optimizer.minibatch` rows each, or until `stopped` says yes."""
    while step < steps and not stopped():
        now("preparing prompts")
        drawn = stream.take(settings.optimizer.minibatch)
        if not drawn:
            break
        groups = [demonstration(each.example, each.prompt, tokenizer) for each in drawn]
        step += 1
        now("updating")
        metrics = policy.update(sft_batch(groups, learning_rate(settings.optimizer, step / steps)))
        shown = {name: metrics[name] for name in ("policy/entropy", "policy/grad_norm", "policy/lr", "policy/tokens")}
        on_step(step, {"progress": step / steps, "sft/loss": -metrics["policy/logprob"]} | shown)
