"""The recipes for one GPU fit it: their arithmetic, done again from the architecture, and the page on memory."""

from pathlib import Path

import pytest
import torch
from memory import (
    GIB,
    cached_token,
    empty_model,
    layer_bytes,
    longest_group,
    peak,
    qwen2_5_vl_3b,
    qwen2_5_vl_7b,
    resident,
    sampling,
    updating,
    vllm_cache,
    working_memory,
)
from transformers import Qwen2_5_VLForConditionalGeneration

from observe_r1.cli.options import parse_settings
from observe_r1.config import ModelSettings, TrainSettings
from observe_r1.model.adapters import add_adapters
from observe_r1.model.shared_prefix import PackedLayout, use_shared_prefix
from observe_r1.rollout.engine import TrainingMemory
from observe_r1.rollout.vllm_start import gpu_share

ROOT = Path(__file__).parents[2]
CARDS = {"24gb": 22.0, "80gb": 79.1}
"""GiB that torch can have of an A10G or L4 and of an A100 or H100, the least of each size."""
ALL_CARDS = {"24 GB": 22.0, "48 GB": 44.4, "80 GB": 79.1, "141 GB": 139.7}
"""Those, and an L40S and an H200."""
MODELS = {"3B": qwen2_5_vl_3b, "7B": qwen2_5_vl_7b}
OFFLOAD = ["--optimizer.kind", "adamw", "--optimizer.offload", "true", "--objective.kl_coef", "0"]
WAYS = {
    "LoRA": ("24gb", []),
    "everything, `optimizer.offload`, `kl_coef 0`": ("80gb", OFFLOAD),
    "everything, `adamw_8bit`": ("80gb", []),
    "everything, `adamw_8bit`, `kl_coef 0`": ("80gb", ["--objective.kl_coef", "0"]),
    "everything, `adamw`, `kl_coef 0`": ("80gb", ["--optimizer.kind", "adamw", "--objective.kl_coef", "0"]),
}
"""By the page's words, a recipe and what overrides it."""
FREE = 0.1
"""Share left for CUDA's own memory, kernels' workspaces and fragmentation."""


def recipe(size, *options):
    path = ROOT / "recipes" / f"qwen2_5_vl_3b_{size}.yaml"
    return parse_settings(TrainSettings, [str(path), *options], verb="train")


def sized(settings):
    return empty_model(qwen2_5_vl_3b(), settings.model)


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs" / "memory.md").read_text()


def test_the_architecture_has_the_published_number_of_parameters(page):
    model = empty_model(qwen2_5_vl_3b())
    everything, tower = (sum(p.numel() for p in part.parameters()) for part in (model, model.model.visual))
    assert (round(everything / 1e9, 2), round(tower / 1e9, 2)) == (3.75, 0.67)
    layers = model.model.language_model.layers
    linear = sum(m.weight.numel() for m in layers.modules() if isinstance(m, torch.nn.Linear))
    assert f"{linear / 1e9:.2f} billion" in page and round(linear / 1e9, 2) == 2.77
    cached = 2 * 36 * 2 * 128 * 2  # keys and values, layers, heads, width, bytes
    assert f"{cached:,} bytes a token" in page
    tables = (4 * each().text_config.vocab_size * each().text_config.hidden_size / GIB for each in MODELS.values())
    assert "{:.1f} GiB for 3B and {:.1f} for 7B".format(*tables) in page


@pytest.mark.parametrize("size", CARDS)
def test_a_recipe_fits_its_card(size):
    settings = recipe(size)
    assert peak(settings, sized(settings)) / GIB < (1 - FREE) * CARDS[size]


@pytest.mark.parametrize(("size", "rows"), [("24gb", 20), ("80gb", 28)])
def test_evaluation_needs_fewer_rows(page, size, rows):
    def fits(count):
        settings = recipe(size, "--evaluation.path", "held_out.jsonl", "--rollout.max_rows", str(count))
        return peak(settings, sized(settings)) / GIB < (1 - FREE) * CARDS[size]

    assert fits(rows) and not fits(rows + 1)
    assert f"`--rollout.max_rows {rows}`" in page


def test_what_it_is_measured_by_can_say_no():
    too_long = recipe("24gb", "--rollout.max_new_tokens", "8192")
    assert peak(too_long, sized(too_long)) / GIB > CARDS["24gb"]
    full = recipe("80gb", "--optimizer.kind", "adamw")
    assert peak(full, sized(full)) / GIB > CARDS["80gb"]


def test_the_page_and_the_recipes_say_what_comes_out(page):
    columns = [
        [part(settings, sized(settings)) for part in (resident, updating, sampling)] for settings in map(recipe, CARDS)
    ]
    for small, large in zip(*columns, strict=True):
        for name in small:
            assert f"| {name} | {small[name] / GIB:.1f} | {large[name] / GIB:.1f} |" in page
    for size, parts in zip(CARDS, columns, strict=True):
        always, update, sample = (f"{sum(part.values()) / GIB:.1f}" for part in parts)
        settings = recipe(size)
        highest = f"{peak(settings, sized(settings)) / GIB:.1f}"
        text = (ROOT / "recipes" / f"qwen2_5_vl_3b_{size}.yaml").read_text()
        assert f"updating adds {update}, sampling {sample}: {highest} GiB at most" in " ".join(text.split())
        assert all(figure in page for figure in (always, update, sample, highest))


def test_every_weight_of_the_text_model_on_24_gb_with_offload(page):
    options = ["--model.lora_rank", "0", "--optimizer.offload", "true", "--objective.kl_coef", "0"]
    settings = recipe("24gb", *options)
    model = sized(settings)
    highest = peak(settings, model) / GIB
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert highest < (1 - FREE) * CARDS["24gb"]
    assert f"{highest:.1f} GiB at most on the GPU and {16 * trained / GIB:.0f} GiB" in " ".join(page.split())
    assert " ".join(options) in page


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", MODELS)
def test_the_page_says_what_fits_beside_vllm_and_a_run_takes_the_same_share(page, size, way):
    base, options = WAYS[way]
    settings = recipe(base, *options)
    model = empty_model(MODELS[size](), settings.model)
    always, update = resident(settings, model), updating(settings, model)
    cells = [f"{sum(always.values()) / GIB:.1f}", f"{sum(update.values()) / GIB:.1f}"]
    for gib in ALL_CARDS.values():
        card = int(gib * GIB)
        cache = vllm_cache(settings, model, card, FREE)
        updates = sum(always.values()) + sum(update.values()) <= (1 - FREE) * card
        fits = updates and cache >= longest_group(settings, model)
        cells.append(f"{cache / GIB:.1f}" if fits else "–")
        if fits:
            assert share_of(card, always, update) == pytest.approx(1 - FREE - sum(always.values()) / card, abs=1e-3)
    assert f"| {size}, {way} | {' | '.join(cells)} |" in page


def share_of(card, always, update):
    """What a run with so much memory would give vLLM, before its first update."""
    later = ("moments", "image features")
    held = {name: int(size) for name, size in always.items() if name not in later}
    coming = {name: int(always[name]) for name in later}
    training = TrainingMemory(held, coming, {"gradients": int(update["gradients"])})
    return gpu_share(card, card - sum(held.values()), training, weights=0)[0]


def test_the_page_s_other_figures_on_vllm(page):
    tokens = {size: cached_token(empty_model(make())) for size, make in MODELS.items()}
    parameters = {size: sum(p.numel() for p in empty_model(make()).parameters()) for size, make in MODELS.items()}
    text = " ".join(page.split())
    assert f"take {tokens['3B']:,} bytes in the 3B model and {tokens['7B']:,} in the 7B" in text
    assert f"1 GiB holds {GIB // tokens['3B']:,} and {GIB // tokens['7B']:,} tokens" in text
    assert f"Qwen2.5-VL-7B ({parameters['7B'] / 1e9:.2f} billion)" in text
    assert f"{16 * parameters['3B'] / GIB:.0f} GiB for 3B and {16 * parameters['7B'] / GIB:.0f} GiB for 7B" in text
    works = [working_memory(empty_model(make()), gib * GIB) / GIB for make in MODELS.values() for gib in (44.4, 79.1)]
    assert f"{min(works):.1f} to {max(works):.1f} GiB are allowed for its working memory" in text
    options = ["--model.quantize", "4bit", "--rollout.max_rows", "16"]
    quantized = recipe("24gb", *options)
    small = empty_model(qwen2_5_vl_7b(), quantized.model)
    layers = small.model.language_model.layers.named_parameters()
    linear = sum(p.numel() for name, p in layers if name.endswith("base_layer.weight"))
    assert (peak(quantized, small) - (2 - 0.52) * linear) / GIB < (1 - FREE) * CARDS["24gb"]
    assert f"`{' '.join(options)}` trains adapters of 7B on 24 GB" in text


@pytest.mark.parametrize("rank", [0, 32], ids=["full", "adapters"])
def test_a_real_layer_keeps_at_most_half_of_what_is_allowed_for_one(rank):
    """What autograd keeps of a layer of the 3B model between forward and backward; the rest is for the backward."""
    config, tokens = qwen2_5_vl_3b(), 64
    config.text_config.num_hidden_layers, config.text_config.vocab_size = 1, 256
    config.vision_config.depth = 1
    model = Qwen2_5_VLForConditionalGeneration(config)
    use_shared_prefix(model)
    if rank:
        add_adapters(model, ModelSettings(path="unused", lora_rank=rank))
    text = model.model.language_model
    hidden = torch.randn(1, tokens, 2048, requires_grad=True)
    kept = {}

    def keep(tensor):
        if tokens in tensor.shape:  # an activation, not a weight
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    layout = PackedLayout([tokens], [[]], torch.device("cpu"))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        angles = text.rotary_emb(hidden, torch.arange(tokens).expand(3, 1, tokens))
        text.layers[0](hidden, position_embeddings=angles, attention_mask=None, layout=layout)
    of_a_token = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / tokens
    assert 100_000 < of_a_token < layer_bytes(2048, 11008) / 2
