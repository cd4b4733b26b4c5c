"""What a plan says of memory is what torch allocates; the benchmark has more sizes and cases."""

import plan_memory
import pytest
from racing.models import make_model

from observe_r1.demo.tiny_model import Sizes

SIZES = Sizes(
    width=192, layers=4, heads=3, kv_heads=1, mlp=512, vision_width=160, vision_depth=3, vision_heads=2, vision_mlp=428
)
SMALL = {"budget": 500, "side": 20, "response": 90}
CASES = {
    "float32": {},
    "bfloat16, checkpointing": {"dtype": "bfloat16", "checkpointing": True},
    "two ranks, tower frozen": {"ranks": 2, "freeze": True},
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
