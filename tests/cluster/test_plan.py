"""The capacity plan: against the sums of docs/memory.md done again, published sizes, and cases worked by hand."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from memory import GIB, cached_token, empty_model, qwen2_5_vl_3b, resident, updating

from observe_r1.cli import main as cli
from observe_r1.cli.options import parse_settings
from observe_r1.cluster.gpus import GPUS
from observe_r1.cluster.plan import Layout, largest_budget, layout_of, memory_parts, plan
from observe_r1.cluster.shape import NAMED, read_shape
from observe_r1.config import ModelSettings, PlanSettings

RECIPES = Path(__file__).parents[2] / "recipes"
ONE = Layout(1, 1, 1, 1, 1, colocated=True)


def planned(*options, recipe="observe_r1"):
    return parse_settings(PlanSettings, [str(RECIPES / f"{recipe}.yaml"), *options], verb="plan")


@pytest.fixture(scope="module")
def small():
    return read_shape(ModelSettings(path="Qwen/Qwen2.5-VL-3B-Instruct", gradient_checkpointing=True))


def test_named_shapes_have_the_published_numbers_of_parameters():
    billions = {name: round(read_shape(ModelSettings(path=name)).parameters / 1e9, 2) for name in NAMED}
    assert list(billions.values()) == [3.75, 8.29, 33.45, 73.41]  # as their pages on the Hub say


def test_sizes_are_those_of_the_model(small):
    assert round(small.linear / 1e9, 2) == 2.77  # docs/memory.md
    assert small.cached_token == cached_token(empty_model(qwen2_5_vl_3b()))
    assert sum(small.units) == small.parameters == small.trained == small.base


@pytest.mark.parametrize("size", ["24gb", "80gb"])
def test_one_gpu_takes_what_the_page_on_memory_says(size):
    settings = planned(recipe=f"qwen2_5_vl_3b_{size}")
    model = empty_model(qwen2_5_vl_3b(), settings.model)
    tokens = max(settings.optimizer.tokens_per_pack, settings.data.max_prompt_tokens + settings.rollout.max_new_tokens)
    parts = memory_parts(settings, read_shape(settings.model), ONE, tokens)
    always, update = resident(settings, model), updating(settings, model)
    names = {"weights": "weights", "gathered or copied weights": "copies in bfloat16"}
    for name in ("weights", "gathered or copied weights", "moments", "reference", "image features"):
        assert parts[name] == pytest.approx(always[names.get(name, name)])
    assert parts["gradients"] == update["gradients"]
    assert parts["activations"] == update["layers' inputs"] + update["one layer or logits"]


@given(budget=st.integers(1, 40_000), shard=st.sampled_from([1, 2, 4, 8]), gpu=st.sampled_from(sorted(GPUS)))
@examples(max_examples=40, deadline=None)
def test_the_largest_budget_is_the_largest(small, budget, shard, gpu):
    settings, layout = planned(), Layout(8, 8, shard, 8, 1, colocated=True)

    def fits(tokens):
        changed = settings.optimizer.model_copy(update={"tokens_per_pack": tokens})
        parts = memory_parts(settings.model_copy(update={"optimizer": changed}), small, layout, max(tokens, 17408))
        return sum(parts.values()) <= 0.9 * GPUS[gpu].memory * GIB

    largest = largest_budget(settings, small, layout, GPUS[gpu])
    assert fits(budget // 256 * 256) == (budget // 256 * 256 <= largest and largest > 0)


def test_a_shard_takes_its_part(small):
    def parts(shard):
        return memory_parts(planned(), small, Layout(8, 8, shard, 8, 1, colocated=True), 17408)

    two, eight = parts(2), parts(8)
    for name in ("weights", "moments", "reference"):
        assert two[name] == 4 * eight[name]
    assert two["activations"] == eight["activations"]


def test_an_update_bound_by_arithmetic_takes_half_as_long_on_a_gpu_twice_as_fast(small, monkeypatch):
    before = plan(planned("--cluster.gpus", "8"), small, 8)
    monkeypatch.setitem(GPUS, "h100", GPUS["h100"]._replace(flops=2 * GPUS["h100"].flops))
    after = plan(planned("--cluster.gpus", "8"), small, 8)
    assert before.bound["update"] == "arithmetic"
    assert after.seconds["update"] == pytest.approx(before.seconds["update"] / 2)


def test_a_minibatch_of_eight_groups_keeps_no_more_than_eight_gpus_busy(small):
    eight, many = (plan(planned(), small, gpus).seconds["update"] for gpus in (8, 64))
    assert many == pytest.approx(eight)
    wide = planned("--optimizer.minibatch", "64")
    assert plan(wide, small, 64).seconds["update"] == pytest.approx(many / 8)


def test_apart_and_ahead_a_step_takes_as_long_as_its_slower_half(small):
    options = ["--cluster.gpus", "8", "--cluster.layout", "apart"]
    options += ["--objective.old_logprobs", "policy", "--objective.importance_cap", "2"]
    waiting = plan(planned(*options), small, 8)
    ahead = plan(planned(*options, "--rollout.ahead", "1"), small, 8)
    assert waiting.layout == Layout(8, 4, 4, 4, 1, colocated=False)
    assert waiting.step == pytest.approx(sum(waiting.seconds.values()))
    sampling = ahead.seconds["sampling"]
    assert ahead.step == pytest.approx(max(sampling, waiting.step - sampling))


def test_the_layout_keeps_what_is_asked_for():
    assert layout_of(
        planned("--rollout.engine", "vllm", "--cluster.gpus", "16", "--cluster.tensor_parallel", "4"), 16
    ) == (Layout(16, 16, 8, 4, 4, colocated=True))


def run(capsys, *words):
    code = cli.main(["plan", *words])
    return code, *capsys.readouterr()


def test_the_command_says_whether_it_fits(capsys):
    code, out, _ = run(capsys, "observe_r1", "--cluster.gpus", "8", "--gpu", "H100")
    assert code == 0 and "fits; largest optimizer.tokens_per_pack" in out and "1,024" in out
    code, out, _ = run(capsys, "observe_r1", "--cluster.gpus", "1", "--gpu", "a10g", "--json")
    found = json.loads(out)
    assert code == 2 and not found["plan"]["fits"] and "GiB" in found["plan"]["why"] and "step" not in found["plan"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "h10"], "plan.gpu = 'h10' is not known"),
        (["--model.path", "."], "model.path = '.': has no config.json"),
        (["--cluster.address", "auto"], "give cluster.gpus"),
        (["--cluster.gpus", "2", "--cluster.engines", "4"], "too few for 4 engines"),
    ],
)
def test_what_cannot_be_planned_is_one_line(capsys, words, message):
    code, out, err = run(capsys, "observe_r1", *words)
    line = err.strip().splitlines()[-1]
    assert code == 2 and not out and line.startswith("observe-r1: error: ") and message in line
