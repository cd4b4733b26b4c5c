"""The race on a small size: what is timed against TRL computes the same, and the counts that bound it are right."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from race import table
from racing.checks import same_update
from racing.counting import Costs, Work
from racing.set_up import our_side, questions, work_of
from racing.trl_side import TRLSide
from racing.work import Script, script

from observe_r1.demo.tiny_model import TINY
from observe_r1.rollout import embedded


@contextmanager
def small_race(*, placeholders=False):
    """Two prompts, and responses of a twentieth of the lengths."""
    with (
        questions(TINY, (8, 12), prompts=2) as (settings, examples),
        our_side(settings, examples, placeholders=placeholders) as ours,
    ):
        given = script(2, 8, "real", uninformative=1, scale=0.05)
        peer = TRLSide(settings, examples)
        ours.follow(given)
        peer.follow(given)
        yield ours, peer, given


@pytest.fixture
def race(monkeypatch):
    monkeypatch.setattr(embedded, "_Batch", embedded._Batch)
    with small_race() as race:
        yield race


def test_both_sides_take_the_same_update(monkeypatch):
    monkeypatch.setattr(embedded, "_Batch", embedded._Batch)
    with small_race(placeholders=True) as (ours, peer, given):
        batch, _ = same_update(ours, peer)
        assert [each.group.lengths for each in batch.groups] == given.lengths.tolist()
        with torch.no_grad():
            peer.model.lm_head.weight.mul_(1.5)
        with pytest.raises(SystemExit, match="log-probabilities"):
            same_update(ours, peer)


def test_the_peer_s_tower_is_fused_for_the_type_that_it_computes_in(monkeypatch):
    """TRL holds float32 weights and computes in bfloat16, by autocast: FlashAttention takes what is computed."""
    types = []
    monkeypatch.setattr("racing.trl_side.prepare_tower", lambda model, dtype, device: types.append(dtype))
    with questions(TINY, (8, 12), prompts=2, dtype="bfloat16") as (settings, examples):
        peer = TRLSide(settings, examples)
        peer.fuse_tower()
    assert types == [torch.bfloat16] and peer.model.dtype == torch.float32


def test_both_sides_follow_the_script(race):
    ours, peer, given = race
    responses = peer.sample()
    assert responses["completion_mask"].sum(1).tolist() == given.lengths.flatten().tolist()
    assert (responses["advantages"].view(2, 8) != 0).any(dim=1).tolist() == [False, True]
    assert [[len(c.ids) for c in group] for group in ours.sample()] == given.lengths.tolist()
    assert peer.generate().shape[1] == len(ours.prompts[0].ids) + int(given.lengths.max())


def test_a_step_updates_on_the_informative_groups_alone(race):
    ours, peer, given = race
    taught = []
    update = ours.policy.update
    ours.policy.update = lambda batch: taught.append(update(batch))
    groups = ours.step()
    assert [group.correct.tolist() for group in groups] == given.correct.tolist()
    assert taught[0]["policy/tokens"] == given.lengths[1].sum()
    assert peer.step()["grad_norm"] > 0


def test_lengths_are_as_their_names_say():
    drawn = script(200, 8, "real").lengths.float()
    assert drawn.median() == pytest.approx(175, rel=0.05)
    assert drawn.log().std() == pytest.approx(0.5, rel=0.06)
    assert drawn.max() <= 600
    assert script(1, 8, "spread").lengths.tolist() == [[60, 94, 129, 163, 197, 231, 266, 300]]


def test_bounds_by_hand():
    costs = Costs(text_token=10, text_pair=1, head_token=5, image=100)
    given = Script(torch.tensor([[2, 4]]), torch.tensor([[True, False]]))
    work = Work(costs, prompt=6, script=given)
    # a row: image 100, prompt 60 + 18 pairs, padded response 40 + 24 + 8, head on all ten 50
    assert work.update()[0] == 3 * 2 * (100 + 78 + 72 + 50)
    assert work.update()[1] == 3 * (100 + 78 + (20 + 12 + 2 + 10) + (40 + 24 + 8 + 20))
    assert replace(work, head_on_prompts=False).update()[0] == 3 * 2 * (100 + 78 + 72 + 20)
    assert replace(work, tower_trained=False).update() == (2 * (100 + 3 * (78 + 72 + 50)), 3 * (78 + 44 + 92))
    assert work.sampling() == (2 * (178 + 92), 178 + 44 + 92)
    assert work.step()[1] == work.sampling()[1] + work.update()[1]
    agreed = replace(work, script=Script(given.lengths, torch.tensor([[True, True]])))
    assert agreed.step() == (work.step()[0], work.sampling()[1])


def test_counted_weights_are_the_models(race):
    ours, _, given = race
    counted = work_of(ours, given).costs
    text = ours.vlm.model.config.text_config
    attention = 2 * text.hidden_size**2 + 2 * text.hidden_size * text.hidden_size // 2
    layer = attention + 3 * text.hidden_size * text.intermediate_size
    assert counted.text_token == 2 * text.num_hidden_layers * layer
    assert counted.text_pair == 4 * text.num_hidden_layers * text.hidden_size


def test_the_table_has_a_line_a_peer():
    row = {
        "measure": "update",
        "case": "x",
        "seconds": {"ours": 1, "TRL": 4},
        "faster": {"TRL": 4},
        "bound": {"TRL": 5},
    }
    assert table([row]).splitlines()[2:] == ["| update | x | TRL | 4.00 | 1.00 | 4.00 | 5 |"]
