"""Settings that an earlier version of the program recorded, before some of today's existed."""

import pytest

from observe_r1.config import TrainSettings, flat
from observe_r1.config.verbs import with_defaults

PLACES = {"model": {"path": "m"}, "data": {"path": "d"}}
RECORDED = {
    "model": {"path": "m"},
    "data": {"path": "old"},
    "gone": {"setting": 1},
    "rollout": {"prompts": 4, "old": 2},
}


def test_what_was_not_recorded_had_its_default():
    found = flat(with_defaults(RECORDED, TrainSettings(**PLACES)))
    defaults = flat(TrainSettings(**PLACES).model_dump(mode="json"))
    changed = {"data.path": "old", "gone.setting": 1, "rollout.prompts": 4, "rollout.old": 2}
    assert found == defaults | changed


def test_what_is_changed_now_and_was_not_recorded_differs():
    found = flat(with_defaults(RECORDED, TrainSettings(**PLACES, rollout={"max_rounds": 77, "prompts": 8})))
    assert "rollout.max_rounds" not in found and found["rollout.prompts"] == 4


@pytest.mark.parametrize("recorded", [None, [], "text", {"model": None}, {"rollout": [1]}])
def test_what_has_no_sections_is_told_as_such(recorded):
    with pytest.raises(AttributeError):
        with_defaults(recorded, TrainSettings(**PLACES))
