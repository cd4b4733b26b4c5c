"""A prompt is what the processor itself makes of the example; a frozen tower's features are kept."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from observe_r1.config import DataSettings, ModelSettings
from observe_r1.data import apply_format_prompt
from observe_r1.demo.tiny_model import make_tiny_model
from observe_r1.errors import UserError
from observe_r1.model.encoding import PromptTooLongError, encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Example

SETTINGS = DataSettings(path="x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def processor(folder):
    return load_model(ModelSettings(path=str(folder), device="cpu")).processor


def example(tmp_path, sizes):
    images = []
    for i, size in enumerate(sizes):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"{i}.png")
        images.append(str(tmp_path / f"{i}.png"))
    content = [{"type": "text", "text": "Compare: "}, *[{"type": "image"} for _ in sizes]]
    content.append({"type": "text", "text": "how many red objects? ½ <x>"})
    return Example("a", ({"role": "user", "content": content},), tuple(images), "3", origin="a.jsonl row 1")


@pytest.mark.parametrize(
    "sizes", [[], [(84, 84)], [(100, 60), (29, 300), (500, 333)], [(1900, 1500), (2000, 11), (5, 5)]]
)
@pytest.mark.parametrize("place", ["system", "suffix"])
def test_prompt_equals_one_call_of_the_processor(processor, tmp_path, sizes, place):
    settings = DataSettings(path="x", format_prompt_place=place)
    question = example(tmp_path, sizes)
    prompt = encode_prompt(question, processor, settings, stream=5)
    messages = apply_format_prompt(question.messages, "observe", place)
    text = processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    originals = [Image.open(path) for path in question.images]
    expected = processor(text=[text], images=originals or None, return_tensors="pt")
    assert prompt.ids.tolist() == expected["input_ids"][0].tolist() and prompt.stream == 5
    assert prompt.token_types.tolist() == expected["mm_token_type_ids"][0].tolist()
    assert len(sizes) == len(prompt.image_digests)
    if sizes:
        assert torch.equal(prompt.pixel_values, expected["pixel_values"])
        assert torch.equal(prompt.image_grid, expected["image_grid_thw"])
    else:
        assert prompt.pixel_values is None and prompt.image_grid is None


@pytest.mark.parametrize("place", ["system", "suffix"])
def test_a_question_that_brings_its_format_prompt_along_is_asked_for_it_once(processor, tmp_path, place):
    plain = example(tmp_path, [(84, 84)])
    written_in = replace(plain, messages=apply_format_prompt(plain.messages, "observe", place))
    expected = encode_prompt(plain, processor, DataSettings(path="x", format_prompt_place=place)).text
    for settings in ({}, {"format_prompt_place": "suffix"}, {"format_prompt": "none"}):
        assert encode_prompt(written_in, processor, DataSettings(path="x", **settings)).text == expected
    with pytest.raises(UserError, match=r"a\.jsonl row 1: the question asks for the format 'observe' already, data"):
        encode_prompt(written_in, processor, DataSettings(path="x", format_prompt="think"))


def test_prompts_over_the_limit_and_impossible_images_are_named(processor, tmp_path):
    with pytest.raises(PromptTooLongError, match=r"a\.jsonl row 1: the prompt has \d+ tokens, data\.max_prompt_tokens"):
        encode_prompt(example(tmp_path, [(84, 84)]), processor, DataSettings(path="x", max_prompt_tokens=20))
    with pytest.raises(UserError, match=r"a\.jsonl row 1: the processor refuses its images"):
        encode_prompt(example(tmp_path, [(3000, 10)]), processor, DataSettings(path="x"))


@pytest.mark.parametrize(
    ("own", "least", "most"),
    [
        ({"max_pixels": 60 * 60}, 0, 60 * 60),
        ({"min_pixels": 200 * 200}, 200 * 200, 10**9),
        ({"min_pixels": 90 * 90, "max_pixels": 120 * 120}, 90 * 90, 120 * 120),
        ({"max_pixels": 1}, 4 * 28 * 28, 4 * 28 * 28),
    ],
)
def test_limits_of_a_single_image_hold_within_those_of_the_model(processor, tmp_path, own, least, most):
    question = example(tmp_path, [(140, 140), (140, 140)])
    question.messages[0]["content"][1].update(own)
    prompt = encode_prompt(question, processor, DataSettings(path="x"))
    pixels = prompt.image_grid.prod(dim=1) * processor.image_processor.patch_size**2
    assert least <= int(pixels[0]) <= most and int(pixels[1]) == 140 * 140


def test_images_have_the_same_digest_where_the_model_sees_the_same(processor, tmp_path):
    images = {
        "wide": Image.new("RGB", (112, 56), "red"),
        "high": Image.new("RGB", (56, 112), "red"),  # the same bytes as wide
        "wider": Image.new("RGB", (113, 57), "red"),  # the same as wide, once it is resized
        "dot": Image.new("RGB", (112, 56), "red"),
        "copy": Image.new("RGB", (112, 56), "red"),
    }
    images["dot"].putpixel((3, 3), (254, 0, 0))
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    paths = tuple(str(tmp_path / f"{name}.png") for name in images)
    content = [{"type": "image"} for _ in paths]
    prompt = encode_prompt(Example("a", ({"role": "user", "content": content},), paths, "3"), processor, SETTINGS)
    digests = dict(zip(images, prompt.image_digests, strict=True))
    assert digests["wide"] == digests["wider"] == digests["copy"]
    assert len(set(digests.values())) == 3
    seen = prompt.pixel_values.split(prompt.image_grid.prod(dim=1).tolist())
    for first, a in zip(images, range(5), strict=True):
        for second, b in zip(images, range(5), strict=True):
            same = torch.equal(seen[a], seen[b]) and torch.equal(prompt.image_grid[a], prompt.image_grid[b])
            assert same == (digests[first] == digests[second])


def test_a_question_far_over_the_limit_is_not_tokenized(processor, tmp_path, monkeypatch):
    long = replace(
        example(tmp_path, []), messages=({"role": "user", "content": [{"type": "text", "text": "x" * 10**7}]},)
    )
    monkeypatch.setattr(processor, "apply_chat_template", None)
    with pytest.raises(
        PromptTooLongError, match=r"^a\.jsonl row 1: the question has 10,000,\d+ characters, which are over"
    ):
        encode_prompt(long, processor, DataSettings(path="x"))
    monkeypatch.undo()
    longest = max(processor.tokenizer.get_vocab(), key=len)
    text = longest * 50  # the most characters that 50 tokens can spell are not refused by their number
    fitting = replace(long, messages=({"role": "user", "content": [{"type": "text", "text": text}]},))
    try:
        encode_prompt(fitting, processor, DataSettings(path="x", max_prompt_tokens=50, format_prompt="none"))
    except PromptTooLongError as error:
        assert "the prompt has" in str(error)


def test_a_checkpoint_that_cannot_be_loaded_is_one_line(folder, tmp_path):
    def refuse(path, reason):
        with pytest.raises(UserError, match=reason) as error:
            load_model(ModelSettings(path=str(path), device="cpu"))
        assert "\n" not in str(error.value)

    def copy(name):
        target = tmp_path / name
        target.mkdir()
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        return target

    refuse(tmp_path / "nothing", "no such folder")
    truncated = copy("truncated")
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refuse(truncated, "model.path")
    blind = copy("blind")
    for name in ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"):
        (blind / name).unlink(missing_ok=True)
    refuse(blind, "no image processor: preprocessor_config.json")
    other = copy("other")
    (other / "config.json").write_text('{"model_type": "llava"}')
    refuse(other, "architecture 'llava' is not supported")
