"""Families beside Qwen2.5-VL: from their checkpoint to a training step, and those that share no prefixes."""

import logging
from unittest.mock import patch

import pytest
import torch
from equivalence import GROUPS, alone, difference, packed
from family_folders import PROCESSORS, write_checkpoint
from PIL import Image
from tiny import (
    FAMILIES,
    SHARING,
    family_config,
    group_of,
    keep_float64,
    random_group,
    random_model,
    random_prompt,
    training_group,
)
from transformers import (
    AutoModelForImageTextToText,
)

from observe_r1.config import DataSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from observe_r1.model import forward
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.families import prepare_model, shares_prefix, use_fused_norms
from observe_r1.model.loading import load_model
from observe_r1.model.saving import save_model
from observe_r1.policy.packing import build_pack, plan_packs
from observe_r1.policy.policy import Policy
from observe_r1.policy.token_logprobs import LogprobModel, TokenLogprobs
from observe_r1.records import Example, Sampling, TrainingBatch
from observe_r1.rollout.embedded import EmbeddedEngine

UNSHARED = {"sliding window": 1e-9, "qwen3_5": 1e-5}  # Qwen3.5's linear attention is float32 whatever it is given


@pytest.fixture
def _float64(monkeypatch):
    keep_float64(monkeypatch)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("budget", [10_000, 60, 1], ids=["a group a pack", "sub-packs", "a response a pack"])
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("family", UNSHARED)
def test_rows_equal_each_response_alone(family, name, budget):
    vlm = random_model(family)
    assert difference(packed(vlm, GROUPS[name], budget), alone(vlm, GROUPS[name])) < UNSHARED[family]


@pytest.mark.usefixtures("_float64")
def test_forgotten_deepstack_features_are_noticed():
    vlm, groups = random_model("qwen3_vl"), GROUPS["one image"]

    def forget(*arguments, real=forward.encode_images):
        output = real(*arguments)
        return type(output)(pooler_output=output.pooler_output, deepstack_features=[])

    with patch("observe_r1.policy.token_logprobs.encode_images", forget):
        assert difference(packed(vlm, groups, 10_000), alone(vlm, groups)) > 1e-3


def test_rows_stay_within_the_budget_and_cover_every_response_once():
    groups = GROUPS["several groups"]
    for budget in range(1, 200):
        seen = []
        for (span,) in plan_packs(groups, budget, shared=False):
            lengths = groups[span.group].lengths[span.first : span.last]
            size = (len(groups[span.group].prompt.ids) + max(lengths) - 1) * len(lengths)
            assert size <= budget or len(lengths) == 1
            seen += [(span.group, r) for r in range(span.first, span.last)]
        assert seen == [(i, r) for i, g in enumerate(groups) for r in range(len(g.lengths))]


@pytest.mark.parametrize("family", [*FAMILIES, "sliding window"])
def test_one_line_says_that_no_prefixes_are_shared(family, caplog):
    model = AutoModelForImageTextToText.from_config(family_config(family))
    with caplog.at_level(logging.WARNING, logger="observe_r1"):
        prepare_model(model, torch.float32)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("observe_r1")]
    assert shares_prefix(model) == (family in SHARING) == (not lines)
    assert all("one sequence per response" in line for line in lines) and len(lines) < 2


@pytest.mark.parametrize("family", UNSHARED)
def test_images_and_prompts_are_computed_once_for_all_responses(family):
    vlm = random_model(family, dtype=torch.float32, scale=0.12)
    patches, prefilled = [], []
    vlm.model.model.visual.patch_embed.register_forward_hook(lambda _, args, out: patches.append(len(out)))
    vlm.model.model.language_model.embed_tokens.register_forward_hook(lambda _, args, out: prefilled.append(out.shape))
    generator = torch.Generator().manual_seed(1)
    prompts = [random_prompt([(4, 6)], 5, generator, torch.float32), random_prompt([], 9, generator, torch.float32)]
    EmbeddedEngine(vlm).generate(prompts, Sampling(n=4, max_new_tokens=3))
    assert sum(patches) == 24
    assert [shape[:2] for shape in prefilled if shape[1] > 1] == [(1, len(p.ids)) for p in prompts]

    groups = [random_group([(4, 6)], [5, 9, 3], dtype=torch.float32)]
    (spans,) = plan_packs(groups, 10_000, shared=False)
    patches.clear()
    TokenLogprobs(vlm, 1.0, chunk=64)(build_pack(vlm, groups, spans))
    assert patches == [24]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_does_not_disturb_sampling(family):
    vlm = random_model(family, dtype=torch.float32, scale=0.12)
    prompts = [random_prompt([(4, 6)], 5, torch.Generator().manual_seed(1), torch.float32)]
    sampling = Sampling(n=2, max_new_tokens=12)
    (expected,) = EmbeddedEngine(vlm).generate(prompts, sampling)
    vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    (sampled,) = EmbeddedEngine(vlm).generate(prompts, sampling)
    assert [c.ids.tolist() for c in sampled] == [c.ids.tolist() for c in expected]
    assert vlm.model.training


@pytest.mark.parametrize("family", UNSHARED)
def test_gradient_checkpointing_changes_nothing(family):
    vlm, groups = random_model(family, seed=2), GROUPS["several groups"]
    expected = packed(vlm, groups, 10_000)
    vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert difference(packed(vlm, groups, 10_000), expected) < 1e-12


@pytest.mark.parametrize("family", PROCESSORS)
def test_from_checkpoint_to_step_to_checkpoint(family, tmp_path):
    folder = write_checkpoint(family, tmp_path / "model")
    vlm = load_model(ModelSettings(path=str(folder), device="cpu", freeze=("model.visual",)))
    Image.new("RGB", (100, 70), "red").save(tmp_path / "image.png")
    content = [{"type": "image"}, {"type": "text", "text": "How many red objects?"}]
    example = Example("x", ({"role": "user", "content": content},), (str(tmp_path / "image.png"),), "1")
    data = DataSettings(path="x")
    prompt = encode_prompt(example, vlm.processor, data)
    whole = vlm.processor(text=[prompt.text], images=[Image.open(tmp_path / "image.png")], return_tensors="pt")
    assert torch.equal(prompt.ids, whole["input_ids"][0]) and torch.equal(prompt.image_grid, whole["image_grid_thw"])
    assert torch.equal(prompt.token_types, whole["mm_token_type_ids"][0])

    (completions,) = EmbeddedEngine(vlm).generate([prompt], Sampling(n=3, max_new_tokens=6))
    group = group_of(prompt, completions)
    policy = Policy(vlm, OptimizerSettings(), ObjectiveSettings())
    sampled = torch.cat([c.logprobs for c in completions])
    torch.testing.assert_close(policy.logprobs([group]), (sampled,), atol=1e-5, rtol=0)
    policy.update(TrainingBatch((training_group(group),), learning_rate=1e-3))
    assert policy.logprobs([group])[0].sum() > sampled.sum()

    save_model(vlm, tmp_path / "trained", data)
    trained = load_model(ModelSettings(path=str(tmp_path / "trained"), device="cpu"))
    torch.testing.assert_close(trained.model.lm_head.weight, vlm.model.lm_head.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_computes_nearly_the_same_on_the_same_weights(family):
    vlm, rounded = (random_model(family, dtype=dtype, scale=0.12) for dtype in (torch.float32, torch.bfloat16))
    prompts = [random_prompt([(4, 6)], 5, torch.Generator().manual_seed(1), torch.float32)]
    (completions,) = EmbeddedEngine(rounded).generate(prompts, Sampling(n=3, max_new_tokens=12))
    group = group_of(prompts[0], completions)
    sampled = torch.cat([c.logprobs for c in completions])
    for model in (vlm, rounded):
        (scored,) = LogprobModel(model, OptimizerSettings()).logprobs([group])
        torch.testing.assert_close(scored, sampled, atol=0.1, rtol=0)


@pytest.mark.parametrize("family", SHARING)
def test_fused_norms_are_transformers_own_on_the_same_weights(family):
    groups = [random_group([(4, 6)], [5, 9], dtype=torch.float32)]
    plain, fused = (random_model(family, dtype=torch.float32, scale=0.2) for _ in range(2))
    names = dict(fused.model.named_parameters())
    use_fused_norms(fused.model)
    norms = [m for m in fused.model.modules() if isinstance(m, torch.nn.RMSNorm)]
    assert len(norms) >= 5 and all(dict(fused.model.named_parameters())[n] is p for n, p in names.items())
    assert not any(type(m).__name__.endswith("RMSNorm") for m in fused.model.modules() if m not in norms)
    assert difference(packed(fused, groups, 1000), packed(plain, groups, 1000)) < 1e-4


def test_norms_that_count_their_weight_from_one_are_left_alone():
    vlm = random_model("qwen3_5")
    use_fused_norms(vlm.model)
    assert not any(isinstance(m, torch.nn.RMSNorm) for m in vlm.model.modules())
