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
from observe_r1.cluster.plan import plan
from observe_r1.cluster.plan_layout import Layout, layout_of
from observe_r1.cluster.plan_memory import largest_budget, longest_pack, memory_parts
from observe_r1.cluster.plan_schedule import WAYS, best_schedules, efficiencies, scheduled
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
    assert sum(small.units) + small.root == small.parameters == small.trained == small.base


@pytest.mark.parametrize("size", ["24gb", "80gb"])
def test_one_gpu_takes_what_the_page_on_memory_says(size):
    settings = planned(recipe=f"qwen2_5_vl_3b_{size}")
    model = empty_model(qwen2_5_vl_3b(), settings.model)
    shape = read_shape(settings.model)
    parts = memory_parts(settings, shape, ONE, longest_pack(settings, shape.merge))
    always, update = resident(settings, model), updating(settings, model)
    names = {"weights": "weights", "gathered or copied weights": "copies in bfloat16"}
    for name in ("weights", "gathered or copied weights", "moments", "reference", "image features"):
        assert parts[name] == pytest.approx(always[names.get(name, name)])
    assert parts["gradients"] == update["gradients"]
    ours = parts["kept activations"] + parts["one layer or logits"]  # the page allows twice what a layer takes
    bound = update["layers' inputs"] + update["one layer or logits"]
    assert update["layers' inputs"] < parts["kept activations"] and bound / 2.5 < ours <= bound


@given(budget=st.integers(1, 40_000), shard=st.sampled_from([1, 2, 4, 8]), gpu=st.sampled_from(sorted(GPUS)))
@examples(max_examples=40)
def test_the_largest_budget_is_the_largest(small, budget, shard, gpu):
    settings, layout = planned(), Layout(8, 8, shard, 8, 1, colocated=True)

    def fits(tokens):
        changed = settings.optimizer.model_copy(update={"tokens_per_pack": tokens})
        changed = settings.model_copy(update={"optimizer": changed})
        parts = memory_parts(changed, small, layout, longest_pack(changed, small.merge))
        return sum(parts.values()) <= 0.9 * GPUS[gpu].memory * GIB

    largest = largest_budget(settings, small, layout, GPUS[gpu])
    assert fits(budget // 256 * 256) == (budget // 256 * 256 <= largest and largest > 0)


def test_a_shard_takes_its_part(small):
    settings = planned()

    def parts(shard):
        layout = Layout(8, 8, shard, 8, 1, colocated=True)
        return memory_parts(settings, small, layout, longest_pack(settings, small.merge))

    two, eight = parts(2), parts(8)
    for name in ("weights", "moments", "gradients"):
        assert two[name] == 4 * eight[name]
    assert two["kept activations"] == eight["kept activations"]


def test_a_frozen_tower_and_quantized_weights_stay_whole_on_every_rank():
    """3B in 4 bits under adapters: on each rank 2.77 billion numbers of 0.52 bytes, and the tower's of 2."""
    settings = planned(
        "--model.lora_rank", "1", "--model.quantize", "4bit", "--model.path", "Qwen/Qwen2.5-VL-3B-Instruct"
    )
    shape = read_shape(settings.model)
    one, four = (
        memory_parts(settings, shape, Layout(n, n, n, n, 1, colocated=True), longest_pack(settings, 4))["weights"]
        for n in (1, 4)
    )
    whole = 0.52 * shape.linear + 2 * shape.tower
    assert one == pytest.approx(0.52 * shape.linear + 2 * (shape.base - shape.linear) + 4 * shape.trained)
    assert four == pytest.approx(whole + (one - whole) / 4)
    assert 0.52 * shape.linear / GIB == pytest.approx(1.34, abs=0.01)


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


def test_on_many_gpus_sampling_ahead_wins_over_waiting(small):
    settings = planned("--rollout.engine", "vllm", "--optimizer.minibatch", "128")
    table = {gpus: best_schedules(settings, small, gpus) for gpus in (4, 16)}
    shares = efficiencies(table)
    for gpus, ways in table.items():
        assert list(ways) == list(WAYS)
        assert ways["apart, ahead 1"].step < ways["apart"].step
        assert ways["apart"].age == ways["colocated"].age == 0
        assert 0 < ways["apart, ahead 1"].age <= ways["apart, ahead 1"].oldest == 1
        assert ways["apart, ahead 2"].oldest <= 2
        for way, each in ways.items():
            assert shares[gpus][way] * gpus * each.step == pytest.approx(
                4 * table[4]["colocated"].step * shares[4]["colocated"]
            )
    assert max(share for ways in shares.values() for share in ways.values()) == 1


def test_lengths_all_alike_and_no_switching_are_what_the_plan_reckons(small):
    """Without a tail the simulated step is the plan's own: prompts, then tokens of all rows at once, then training."""
    options = [
        "--cluster.gpus",
        "8",
        "--rollout.engine",
        "vllm",
        "--plan.length_spread",
        "0",
        "--plan.switch_seconds",
        "0",
    ]
    settings = planned(*options)
    made = plan(settings, small, 8)
    assert scheduled(settings, small, made).step == pytest.approx(made.step)


def run(capsys, *words):
    code = cli.main(["plan", *words])
    return code, *capsys.readouterr()


def test_the_command_says_whether_it_fits(capsys):
    code, out, _ = run(capsys, "observe_r1", "--cluster.gpus", "8", "--gpu", "H100")
    assert code == 0 and "fits; largest optimizer.tokens_per_pack" in out and "1,024" in out
    for gpu, way in (
        ("h100", "2 such GPUs fit: --cluster.gpus 2"),
        ("rtx4090", "No number of such GPUs fits"),
    ):
        code, out, _ = run(capsys, "observe_r1", "--cluster.gpus", "1", "--gpu", gpu)
        assert code == 2 and way in out.splitlines()[-1] and "qwen2_5_vl_3b_24gb" in out.splitlines()[-1]
    code, out, _ = run(capsys, "observe_r1", "--cluster.gpus", "1", "--gpu", "a10g", "--json")
    found = json.loads(out)
    assert code == 2 and not found["plan"]["fits"] and "GiB" in found["plan"]["why"] and "step" not in found["plan"]


def test_the_picture_is_drawn_for_light_and_dark_pages(capsys, tmp_path):
    code, _, _ = run(capsys, "observe_r1", "--cluster.gpus", "8", "--picture", str(tmp_path / "new" / "plan.svg"))
    light, dark = ((tmp_path / "new" / name).read_text() for name in ("plan.svg", "plan_dark.svg"))
    assert code == 0 and light.startswith("<?xml") and light != dark


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--picture", "plan.pdf"], "plan.picture = 'plan.pdf': give a name that ends in .png or .svg"),
        (["--gpu", "h10"], "plan.gpu = 'h10' is not known"),
        (["--model.path", "."], "model.path = '.': has no config.json"),
        (["--cluster.address", "auto"], "give cluster.gpus"),
        (["--cluster.gpus", "2", "--cluster.engines", "4"], "too few for 4 engines"),
        (
            ["--rollout.engine=vllm", "--cluster.gpus=8", "--cluster.tensor_parallel=3"],
            "16 attention heads and 2 key-value heads cannot be split into 3",
        ),
        (["--plan.image_tokens", "1001"], "plan.image_tokens = 1001: over plan.prompt_tokens = 1000"),
        (["--data.max_prompt_tokens", "900"], "plan.prompt_tokens = 1000: over data.max_prompt_tokens = 900"),
        (["--plan.response_tokens", "9000"], "plan.response_tokens = 9000: over rollout.max_new_tokens = 8192"),
    ],
)
def test_what_cannot_be_planned_is_one_line(capsys, words, message):
    code, out, err = run(capsys, "observe_r1", *words)
    line = err.strip().splitlines()[-1]
    assert code == 2 and not out and line.startswith("observe-r1: error: ") and message in line
