"""The tiny checkpoint: loads through the Auto classes, sees nine cells, and starts with the stated weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from observe_r1.data.format_prompts import FORMAT_PROMPTS
from observe_r1.demo.dataset import make_items
from observe_r1.demo.scene import COLOURS, SHAPES, render
from observe_r1.demo.tiny_model import (
    SPECIAL_TOKENS,
    Sizes,
    build_config,
    build_model,
    build_processor,
    init_weights,
    make_tiny_model,
    make_tokenizer,
)

TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", seed=3)


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


def chat(question: str, answer: str | None = None) -> list[dict]:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": FORMAT_PROMPTS["observe"]}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
    ]
    if answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def test_the_checkpoint_loads_as_it_was_built(folder):
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    built = build_model(seed=3)
    assert type(loaded) is type(built)
    assert 0.5e6 < sum(parameter.numel() for parameter in loaded.parameters()) < 0.6e6
    for (name, weight), (twin_name, twin) in zip(loaded.state_dict().items(), built.state_dict().items(), strict=True):
        assert name == twin_name
        assert weight.dtype == torch.float32
        assert torch.equal(weight, twin), name
    assert (folder / "model.safetensors").exists()


def test_generation_ends_with_the_turn(folder, processor):
    config = GenerationConfig.from_pretrained(folder)
    assert processor.tokenizer.convert_ids_to_tokens([config.eos_token_id, config.pad_token_id]) == [
        "<|im_end|>",
        "<|endoftext|>",
    ]
    assert (processor.tokenizer.eos_token, processor.tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_an_image_is_nine_tokens_and_a_forward_and_generation_work(folder, processor):
    items = make_items("train", 0, 2)
    text = [processor.apply_chat_template(chat(i.question.text), add_generation_prompt=True) for i in items]
    images = [render(item.scene) for item in items]
    batch = processor(text=text, images=images, padding=True, padding_side="left", return_tensors="pt")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    assert batch["image_grid_thw"].tolist() == [[1, 6, 6]] * 2
    assert (batch["input_ids"] == model.config.image_token_id).sum(1).tolist() == [9, 9]
    logits = model(**batch).logits
    assert logits.shape == (*batch["input_ids"].shape, len(processor.tokenizer))
    assert logits.isfinite().all()
    assert model.generate(**batch, max_new_tokens=3, do_sample=False).shape[1] <= batch["input_ids"].shape[1] + 3


def test_an_empty_cell_is_zero_once_normalised_and_the_image_keeps_its_size(processor):
    item = next(item for item in make_items("train", 0, 50) if item.level < 9)
    pixels = processor.image_processor(images=[render(item.scene)], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (36, 3 * 2 * 14 * 14)
    cells = pixels.view(9, 4, -1).abs().amax((1, 2))  # the processor groups the four patches of a merged token
    empty = [name == "empty" for name in item.scene.cell_names()]
    assert (cells < 0.01).tolist() == empty


def test_the_model_sees_what_differs_between_two_images(folder, processor):
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    text = [processor.apply_chat_template(chat("How many red objects are there?"), add_generation_prompt=True)]
    first, second = (
        model(**processor(text=text, images=[render(item.scene)], return_tensors="pt")).logits[0, -1]
        for item in make_items("train", 0, 2)
    )
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("with_answer", [False, True])
def test_chat_template(processor, with_answer):
    expected = (
        f"<|im_start|>system\n{FORMAT_PROMPTS['observe']}<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many red objects are there?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    answer = " <answer> 2 </answer> \n" if with_answer else None
    messages = chat("How many red objects are there?", answer)
    if with_answer:
        expected += f"{answer}<|im_end|>\n"
    for owner in (processor, processor.tokenizer):
        assert owner.apply_chat_template(messages, tokenize=False, add_generation_prompt=not with_answer) == expected


def test_chat_template_without_a_system_message_and_with_plain_strings():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert TOKENIZER.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    )


def test_every_word_of_the_world_is_one_token_and_so_is_what_prompts_repeat():
    items = make_items("sft", 0, 300)
    for text in [item.demonstration for item in items]:
        assert len(TOKENIZER(text).input_ids) == len(text.split()), TOKENIZER.tokenize(text)
    for text in FORMAT_PROMPTS.values():
        assert len(TOKENIZER(f"a\n{text}<|im_end|>").input_ids) == 4, TOKENIZER.tokenize(text)
    for question in [item.question for item in items]:
        wording = {1: ["How many", " are there", "?"], 2: ["a", " and", "b", "?"]}[len(question.attributes)]
        attributes = [word for attribute in question.attributes for word in attribute.plural.split()]
        assert len(TOKENIZER(question.text).input_ids) <= len(wording) + len(attributes), question.text
    for colour in COLOURS:
        for shape in SHAPES:
            assert len(TOKENIZER(f" {colour}-{shape}").input_ids) == 1


def test_special_tokens_are_never_split_and_the_tokenizer_is_always_the_same():
    for token in SPECIAL_TOKENS:
        assert TOKENIZER(f"a{token}b").input_ids[1:-1] == [TOKENIZER.convert_tokens_to_ids(token)]
    assert make_tokenizer().get_vocab() == TOKENIZER.get_vocab()


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_round_trips(text):
    assert TOKENIZER.decode(TOKENIZER(text).input_ids) == text


def test_a_saved_tokenizer_splits_as_the_trained_one(processor):
    for text in ("<observe> red-circle empty </observe>", "naïve 日本 12 </nothing>\n\n x", FORMAT_PROMPTS["think"]):
        assert processor.tokenizer(text).input_ids == TOKENIZER(text).input_ids
        assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_initial_weights_have_the_stated_spread(scale):
    sizes = Sizes(width=128, layers=2, vision_width=96, vision_depth=3)
    model = build_model(sizes, seed=1, scale=scale)
    tower, layer = model.model.visual, model.model.language_model.layers[1]
    expected = {
        model.model.language_model.embed_tokens: 128**-0.5,
        layer.self_attn.q_proj: 128**-0.5,
        layer.self_attn.o_proj: (128 * 2 * 2) ** -0.5,
        layer.mlp.gate_proj: 128**-0.5,
        layer.mlp.down_proj: (256 * 2 * 2) ** -0.5,
        tower.patch_embed.proj: (3 * 2 * 14 * 14) ** -0.5,
        tower.blocks[2].attn.qkv: 96**-0.5,
        tower.blocks[2].attn.proj: (96 * 2 * 3) ** -0.5,
        tower.blocks[2].mlp.down_proj: (128 * 2 * 3) ** -0.5,
        tower.merger.mlp[0]: (4 * 96) ** -0.5,
        tower.merger.mlp[2]: (4 * 96) ** -0.5,
    }
    for module, std in expected.items():
        count = module.weight.numel()
        assert module.weight.std().item() == pytest.approx(scale * std, rel=6 / math.sqrt(2 * count))
        assert abs(module.weight.mean().item()) < 6 * scale * std / math.sqrt(count)
    vectors = {name: weight for name, weight in model.named_parameters() if weight.ndim == 1}
    assert all((weight == (0 if name.endswith("bias") else 1)).all() for name, weight in vectors.items())
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_initial_weights_depend_on_their_seed_alone():
    torch.manual_seed(0)
    model = build_model(seed=5)
    following = torch.rand(1)
    torch.manual_seed(0)
    build_model(seed=6)
    assert torch.equal(torch.rand(1), following)  # global state moves alike whatever the seed
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    nn.init.normal_(model.model.visual.merger.mlp[0].bias)
    init_weights(model, 6)
    embeddings = "model.language_model.embed_tokens.weight"
    assert not torch.equal(model.get_parameter(embeddings), before[embeddings])
    init_weights(model, 5)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


@pytest.mark.parametrize(("depth", "blocks"), [(1, [0]), (3, [2]), (6, [1, 5]), (8, [3, 7])])
def test_the_last_image_block_sees_the_whole_image(depth, blocks):
    assert build_config(Sizes(vision_depth=depth)).vision_config.fullatt_block_indexes == blocks


@pytest.mark.parametrize("heads", [2, 4, 8])
def test_rotary_sections_fill_a_head(heads):
    rope = build_config(Sizes(heads=heads)).text_config.rope_parameters
    assert sum(rope["mrope_section"]) == 96 // heads // 2


def test_processor_in_memory_equals_the_saved_one(processor):
    built = build_processor()
    assert built.image_processor.to_dict() == processor.image_processor.to_dict()
    assert built.chat_template == processor.chat_template
