"""What a plan says of memory is what torch allocates: a small model here, three sizes in the benchmark's results."""

import json
import re
from pathlib import Path

import plan_memory
import pytest
from racing.models import make_model

from observe_r1.demo.tiny_model import Sizes

ROOT = Path(__file__).parents[2]
SIZES = Sizes(width=192, layers=4, heads=3, kv_heads=1, mlp=512, vision_width=160, vision_depth=3, vision_heads=2, vision_mlp=428)
SMALL = {"budget": 400, "side": 20, "response": 90}
CASES = {
    "embedded": {"dtype": "bfloat16", "checkpointing": True},
    "two ranks": {"ranks": 2, "freeze": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    make_model(folder / "model", SIZES, vocabulary=16_384)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_each_part_of_a_small_model_is_within_15_percent(folder, case):
    parts = plan_memory.run_case(folder, CASES[case] | SMALL)
    assert {"weights", "moments", "gradients", "kept activations", "one layer or logits", "in all"} <= parts.keys()
    for name, part in parts.items():
        assert part["planned"] == pytest.approx(part["measured"], rel=0.15), name


def test_the_page_has_what_was_measured_at_three_sizes():
    page = (ROOT / "docs" / "plan.md").read_text()
    cases = json.loads((ROOT / "benchmarks" / "results" / "plan_memory.json").read_text())["cases"]
    assert len({each["size"] for each in cases}) == 3
    for each in cases:
        off = {name: part["planned"] / part["measured"] - 1 for name, part in each["parts"].items()}
        assert max(map(abs, off.values())) <= 0.15, each
        row = [each["case"], each["size"], f"{each['parts']['in all']['measured'] / 2**20:,.0f}"]
        row += [f"{100 * off[name]:+.1f} %" for name in ("kept activations", "one layer or logits", "in all")]
        assert re.sub(r"\+0\.0|-0\.0", "0.0", f"| {' | '.join(row)} |") in page
