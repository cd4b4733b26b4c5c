"""Policies that learn a little on a tiny checkpoint: what tests of adapters, loading and optimizers share."""

from dataclasses import replace

import torch
from tiny import random_group, training_group

from observe_r1.config import DataSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.model.loading import load_model
from observe_r1.policy.master_weights import MasterWeights
from observe_r1.policy.policy import Policy
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.records import TrainingBatch
from observe_r1.run.checkpoint import Checkpoints

DATA = DataSettings(path="unused")
OPTIMIZER = OptimizerSettings(lr=1e-2, max_grad_norm=1e9)


def wide_checkpoint(folder):
    """Weights wide enough that attention matters."""
    return make_tiny_model(folder / "base", sizes=Sizes(width=64), scale=1.5)


def load(checkpoint, *, frozen=False, **settings):
    torch.manual_seed(1)
    return load_model(ModelSettings(path=str(checkpoint), device="cpu", **settings), frozen=frozen)


def policy(vlm, dtype=torch.float32, **settings):
    return Policy(vlm, OPTIMIZER.model_copy(update=settings), ObjectiveSettings(), dtype=dtype)


def group(vlm, seed=0, grids=((4, 6),)):
    """A random group whose image placeholders are those of `vlm`, and stand nowhere else."""
    drawn = random_group(list(grids), [5, 9, 3], seed=seed, dtype=torch.float32)

    def allowed(ids):
        return ids.masked_fill(torch.isin(ids, torch.tensor(vlm.suppressed_ids)), 7)

    prompt, image = drawn.prompt, vlm.model.config.image_token_id
    prompt = replace(prompt, ids=allowed(prompt.ids).masked_fill(prompt.token_types == 1, image))
    return replace(drawn, prompt=prompt, completions=tuple(replace(c, ids=allowed(c.ids)) for c in drawn.completions))


def batch(*groups, lr=1e-2):
    generator = torch.Generator().manual_seed(0)
    advantages = [torch.randn(sum(g.lengths), generator=generator) for g in groups]
    training = [training_group(g, a, torch.full_like(a, 0.1)) for g, a in zip(groups, advantages, strict=True)]
    return TrainingBatch(tuple(training), learning_rate=lr)


def learn(trained, steps=3, first=0, lr=1e-2, **kind):
    """Take optimizer steps number `first` and on; the same number always brings the same groups."""
    vlm = trained.vlm
    return [
        trained.update(batch(*(group(vlm, seed=2 * step + i, **kind) for i in range(2)), lr=lr))
        for step in range(first, first + steps)
    ]


def assert_resumes(fresh, folder):
    """A policy of `fresh()` that goes on from a checkpoint ends bit by bit as one that was never stopped."""
    unbroken, stopped, resumed = fresh(), fresh(), fresh()
    expected = learn(unbroken, steps=4)
    learn(stopped, steps=2)
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(2, stopped, {}, {"x": torch.zeros(1)})
    learn(stopped, steps=1, first=2)  # what is written is what was saved
    checkpoints.finish()
    assert checkpoints.load_newest(resumed, print)[0]["step"] == 2
    assert learn(resumed, steps=2, first=2) == expected[2:]
    assert equal(resumed.parameters, unbroken.parameters)
    assert equal(resumed.vlm.model.parameters(), unbroken.vlm.model.parameters())
    return next(folder.glob("step-*"))


def logprobs(vlm, **settings):
    return LogprobModel(vlm, OPTIMIZER, **settings).logprobs([group(vlm), group(vlm, seed=1)])


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def in_bfloat16(vlm):
    """The model with its trained weights held as a policy that computes in bfloat16 holds them."""
    MasterWeights(vlm, torch.bfloat16, offload=False)
    return vlm


def trained_names(vlm):
    return {name for name, parameter in vlm.model.named_parameters() if parameter.requires_grad}


def flat(parameters):
    return torch.cat([parameter.detach().flatten().float() for parameter in parameters])


def distance(ours, theirs, start):
    """How far two runs ended from each other, as a share of how far they went."""
    ours, theirs, start = flat(ours), flat(theirs), flat(start)
    return float((ours - theirs).norm() / (theirs - start).norm())
