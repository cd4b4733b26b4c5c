"""Supervised fine-tuning: the warm start that teaches the response format.

Its gradient is the policy gradient of given responses whose advantage is 1, taken against the policy's own
log-probabilities: ∇(−ρ·1) = −∇ log π where ρ = 1. So the update, with its packing and chunked head, is the policy's.
"""

from collections.abc import Sequence
from typing import Any

import torch

from observe_r1.config import OptimizerSettings
from observe_r1.errors import UserError
from observe_r1.objective import token_advantages, token_mean
from observe_r1.policy.optimizers import learning_rate
from observe_r1.records import Completion, Example, Group, Prompt, TrainingBatch, TrainingGroup
from observe_r1.training.loop import Learner, Monitor, RunLength
from observe_r1.training.prompts import Drawn, PromptStream


def fine_tune(
    policy: Learner,
    stream: PromptStream,
    batcher: "DemonstrationBatcher",
    length: RunLength,
    monitor: Monitor,
) -> None:
    """Fine-tune until the run has its length, or `monitor` stops it.

    Args:
        policy: Is trained.
        stream: Gives the demonstrations of each step.
        batcher: Makes a training batch of them.
        length: Of the run.
        monitor: Is told of every step.

    Raises:
        UserError: A row has no assistant turn, or a step failed for another reason that the user can correct.
    """
    while not monitor.stopped() and not length.reached(monitor.step, stream):
        monitor.now("preparing prompts")
        drawn = stream.take(batcher.size)
        if not drawn:
            break  # the last prompts were all over the limit
        step = monitor.step + 1
        progress = length.progress(step, stream)
        monitor.now("updating")
        metrics = policy.update(batcher.batch(drawn, progress))
        shown = {name: metrics[name] for name in ("policy/entropy", "policy/grad_norm", "policy/lr", "policy/tokens")}
        metrics = {"progress": progress, "sft/loss": -metrics["policy/logprob"]} | shown
        monitor.step_done(step, metrics, last=length.reached(step, stream))


class DemonstrationBatcher:
    """Makes training batches of demonstrations.

    Args:
        settings: The size of a batch, and the schedule of the learning rate.
        tokenizer: Of the model.
    """

    def __init__(self, settings: OptimizerSettings, tokenizer: Any) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.size = settings.minibatch

    def batch(self, drawn: Sequence[Drawn], progress: float) -> TrainingBatch:
        """Return the batch of one optimizer step.

        Args:
            drawn: The demonstrations.
            progress: The run's progress in [0, 1] after this step.

        Raises:
            UserError: A row has no assistant turn.
        """
        groups = [demonstration(each.example, each.prompt, self.tokenizer) for each in drawn]
        return sft_batch(groups, learning_rate(self.settings, progress))


def demonstration(example: Example, prompt: Prompt, tokenizer: Any) -> Group:
    """Return a group of one response: the example's assistant turn, as if it had been sampled.

    Raises:
        UserError: The example has no assistant turn.
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
