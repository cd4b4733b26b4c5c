"""Supervised fine-tuning: its loss is the mean negative log-likelihood, and the loop ends where its length says."""

from types import SimpleNamespace

import pytest
import torch

from observe_r1.config import DataSettings, ObjectiveSettings, OptimizerSettings, RunSettings
from observe_r1.data.order import ladder
from observe_r1.errors import UserError
from observe_r1.model.encoding import PromptTooLongError
from observe_r1.objective import policy_loss
from observe_r1.policy.optimizers import learning_rate
from observe_r1.records import Example, Prompt
from observe_r1.training.loop import RunLength
from observe_r1.training.prompts import PromptStream
from observe_r1.training.sampler import unseen
from observe_r1.training.sft import DemonstrationBatcher, demonstration, fine_tune, sft_batch

METRICS = {f"policy/{name}": 1.0 for name in ("entropy", "grad_norm", "lr", "tokens", "logprob")}
SETTINGS = OptimizerSettings(minibatch=2, lr=1.0, warmup=0.1)


class Tokenizer:
    eos_token_id = 0

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [ord(letter) for letter in text]}


def encode(example, draw):
    if example.id == "long":
        raise PromptTooLongError("too long", tokens=900)
    return Prompt(ids=torch.ones(3), token_types=torch.zeros(3), stream=draw)


def examples(*responses):
    return [Example("long" if r == "long" else str(i), (), (), "", response=r) for i, r in enumerate(responses)]


def tune(rows, stop_after=99, step=0, **run):
    """Return the ids and rates of each update, and the steps as the monitor heard of them."""
    settings = RunSettings(**run)
    length = RunLength(settings, len(rows))
    source = PromptStream(rows, ladder(DataSettings(path="d"), len(rows), 0), encode, lambda text: None, length.prompts)
    updates, steps = [], []

    def update(batch):
        updates.append(([each.group.example.id for each in batch.groups], batch.learning_rate))
        return METRICS

    def step_done(step, metrics, *, last):
        monitor.step = step
        steps.append((step, metrics["progress"], last))

    monitor = SimpleNamespace(step=step, now=unseen, stopped=lambda: monitor.step >= stop_after, step_done=step_done)
    fine_tune(SimpleNamespace(update=update), source, DemonstrationBatcher(SETTINGS, Tokenizer()), length, monitor)
    source.close()
    return updates, steps


@pytest.mark.parametrize(
    ("run", "ids", "progress"),
    [
        ({}, ["01", "23", "4"], [0.4, 0.8, 1.0]),
        ({"prompts": 3}, ["01", "2"], [2 / 3, 1.0]),
        ({"steps": 2}, ["01", "23"], [0.5, 1.0]),
        ({"epochs": 2.0}, ["01", "23", "40", "12", "34"], [0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_a_run_has_the_length_that_its_settings_say(run, ids, progress):
    updates, steps = tune(examples(*"abcde"), **run)
    assert updates == [([*group], learning_rate(SETTINGS, share)) for group, share in zip(ids, progress, strict=True)]
    assert steps == [(n, share, share == 1) for n, share in enumerate(progress, 1)]


def test_last_rows_that_are_all_too_long_are_no_step():
    updates, steps = tune(examples("a", "b", "long", "long"))
    assert [ids for ids, _ in updates] == [["0", "1"]] and len(steps) == 1


def test_a_run_stops_after_the_step_and_continues_after_it():
    assert [step for step, *_ in tune(examples(*"abcdefgh"), stop_after=2)[1]] == [1, 2]
    assert [step for step, *_ in tune(examples(*"abcdefgh"), step=2, steps=3)[1]] == [3]


def test_the_gradient_is_that_of_the_mean_negative_log_likelihood():
    groups = [demonstration(each, encode(each, 0), Tokenizer()) for each in examples("ab", "c", "defg")]
    batch = sft_batch(groups, 1.0)
    total = sum(len(group.completions[0].ids) for group in groups)
    assert total == 3 + 2 + 5  # with their end-of-turn tokens
    for each in batch.groups:
        logprobs = (-torch.rand(len(each.token_advantages))).requires_grad_()
        streams = logprobs, each.token_advantages, each.loss_weights, each.sampler_logprobs
        loss, _ = policy_loss(*streams, ObjectiveSettings())
        (gradient,) = torch.autograd.grad(loss, logprobs)
        torch.testing.assert_close(gradient, torch.full_like(gradient, -1 / total))


def test_a_row_without_an_assistant_turn_is_one_line():
    row = Example("x", (), (), "", origin="rows.jsonl row 3")
    with pytest.raises(UserError, match=r"rows\.jsonl row 3: no assistant turn"):
        demonstration(row, encode(row, 0), Tokenizer())
