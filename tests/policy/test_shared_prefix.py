"""The packed update equals transformers' own forward on each response alone, and deliberate faults are noticed."""

from unittest.mock import patch

import pytest
from equivalence import GROUPS, alone, difference, packed
from tiny import SHARING, keep_float64, random_model

from observe_r1.model.shared_prefix import PackedLayout
from observe_r1.policy import packing
from observe_r1.policy.packing import build_pack, plan_packs


@pytest.fixture(autouse=True)
def _float64(monkeypatch):
    keep_float64(monkeypatch)


@pytest.mark.parametrize("budget", [10_000, 40, 1], ids=["one pack", "sub-packs", "a response a pack"])
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("family", SHARING)
def test_packed_equals_each_response_alone(family, name, budget):
    vlm = random_model(family)
    worst = difference(packed(vlm, GROUPS[name], budget), alone(vlm, GROUPS[name]))
    assert worst < 1e-9


def test_temperature_is_part_of_the_distribution():
    vlm, groups = random_model(seed=1), GROUPS["one image"]
    ours = packed(vlm, groups, 10_000, 0.7)
    right, wrong = difference(ours, alone(vlm, groups, 0.7)), difference(ours, alone(vlm, groups))
    assert right < 1e-9
    assert wrong > 1e-3


@pytest.mark.parametrize("family", SHARING)
def test_gradient_checkpointing_changes_nothing(family):
    vlm, groups = random_model(family, seed=2), GROUPS["several groups"]
    expected = packed(vlm, groups, 10_000)
    vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert difference(packed(vlm, groups, 10_000), expected) < 1e-12


def position_off_by_one(vlm, groups, spans):
    pack = build_pack(vlm, groups, spans)
    pack.positions[:, :, len(groups[0].prompt.ids) :] += 1
    return pack


def target_shifted(vlm, groups, spans):
    pack = build_pack(vlm, groups, spans)
    pack.targets.copy_(pack.targets.roll(1))
    return pack


def response_sees_another(vlm, groups, spans):
    pack = build_pack(vlm, groups, spans)
    first, *rest = pack.layout.responses[0]
    joined = [first + rest[0], *rest[1:]]
    layout = PackedLayout(pack.layout.prompts, [joined, *pack.layout.responses[1:]], pack.layout.device)
    return packing.Pack(pack.spans, pack.prompts, pack.ids, pack.positions, layout, pack.predictors, pack.targets)


@pytest.mark.parametrize("fault", [position_off_by_one, target_shifted, response_sees_another])
def test_deliberate_faults_are_noticed(fault):
    vlm, groups = random_model(), GROUPS["one image"]
    with patch("equivalence.build_pack", fault):
        assert difference(packed(vlm, groups, 10_000), alone(vlm, groups)) > 1e-3


def test_every_response_of_a_group_is_packed_once_within_the_budget():
    groups = GROUPS["several groups"]
    for budget in range(1, 80):
        seen = []
        for spans in plan_packs(groups, budget, shared=True):
            size = sum(
                len(groups[s.group].prompt.ids) + sum(n - 1 for n in groups[s.group].lengths[s.first : s.last])
                for s in spans
            )
            assert size <= budget or (len(spans) == 1 and spans[0].last - spans[0].first == 1)
            seen += [(s.group, r) for s in spans for r in range(s.first, s.last)]
        assert seen == [(i, r) for i, g in enumerate(groups) for r in range(len(g.lengths))]
