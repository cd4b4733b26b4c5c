"""A tiny Qwen2.5-VL: real architecture, tokenizer and processor at a size that a laptop trains in minutes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import observe_r1.model  # noqa: F401  first: it lets torchvision, which transformers imports, load beside any torch

# isort: split
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.utils import logging as transformers_logging

from observe_r1.data.format_prompts import FORMAT_PROMPTS
from observe_r1.demo.scene import COLOURS, SHAPES
from observe_r1.demo.tasks import KINDS, Attribute
from observe_r1.files import replacing

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)
"""The special tokens, in the order of their ids from 0."""

CHAT_TEMPLATE = r"""
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type in ('image', 'video') %}
                {{- '<|vision_start|><|' + part.type + '_pad|><|vision_end|>' }}
            {%- else %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
"""ChatML with image parts: the same text as Qwen2.5-VL's own template, its default system message included."""

_LARGEST_NUMBER = 18
_WORDS = Regex(
    r" ?</?\p{L}+>"  # a tag
    r"| ?\p{L}+(?:-\p{L}+)*"  # a word, hyphens included
    r"| ?\p{N}+"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|\s+"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer: a byte-level BPE with Qwen's special tokens and a ChatML template, always the same one.

    It is trained on the world's own text until every word there is one token, also objects such as ` red-circle` and
    tags such as ` </think>`. What prompts repeat, format prompts and the wording of questions, is one token as a whole:
    that leaves half of the tokens of a row, and so of the demo's work. Any other text still round-trips, in more
    tokens. The end-of-sequence token is `<|im_end|>`.
    """
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=4096,  # never reached: training ends when every word is one token
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_training_text(), trainer)
    backend.add_tokens([AddedToken(phrase, normalized=False) for phrase in _repeated()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _training_text() -> Iterator[str]:
    """Yield every word of the world at least once, with the characters that surround it."""
    yield from FORMAT_PROMPTS.values()
    yield "You are a helpful assistant."
    for role in ("system", "user", "assistant"):
        yield f"{role}\n"
    colours, shapes = [Attribute(colour) for colour in COLOURS], [Attribute(shape=shape) for shape in SHAPES]
    both = [Attribute(colour, shape) for colour, shape in product(COLOURS, SHAPES)]
    attributes = [*colours, *shapes, *both]
    for kind in KINDS.values():
        yield kind.wording.format(*["objects"] * len(kind.asks))
    yield "".join(f" {attribute.name} {attribute.plural}" for attribute in attributes)
    yield "".join(f" {number}" for number in range(_LARGEST_NUMBER + 1))
    yield "<observe> empty </observe> <think> </think> <answer> </answer>"


def _repeated() -> list[str]:
    """Return the format prompts, and the words between the attributes of questions if they are several."""
    parts = [part.rstrip("? ") for kind in KINDS.values() for part in kind.wording.split("{}")]
    return [*FORMAT_PROMPTS.values(), *dict.fromkeys(part for part in parts if " " in part.strip())]


_MIN_PIXELS = 4 * 28 * 28
_MAX_PIXELS = 10000 * 16 * 16


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the model. The width of a head must be even in the text model, a multiple of 4 in the image tower."""

    width: int = 96
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 256
    vision_width: int = 64
    vision_depth: int = 1
    vision_heads: int = 4
    vision_mlp: int = 128


TINY = Sizes()
"""0.55 million parameters."""


def make_tiny_model(folder: Path, *, sizes: Sizes = TINY, seed: int = 0, scale: float = 1.0) -> Path:
    """Write an untrained checkpoint that loads with transformers' Auto classes.

    Args:
        folder: Replaced, all at once.
        sizes: Of the model.
        seed: Of its weights.
        scale: Of its weights, see `init_weights`.

    Returns:
        `folder`.
    """
    transformers_logging.disable_progress_bar()
    model = build_model(sizes, seed=seed, scale=scale)
    processor = build_processor()
    with replacing(folder) as new:
        model.save_pretrained(new)
        processor.save_pretrained(new)
    return folder


def build_model(sizes: Sizes = TINY, *, seed: int = 0, scale: float = 1.0) -> Qwen2_5_VLForConditionalGeneration:
    """Return an untrained model in float32 on the CPU; for `seed` and `scale` see `init_weights`."""
    config = build_config(sizes)
    model = Qwen2_5_VLForConditionalGeneration(config)
    init_weights(model, seed, scale)
    model.generation_config = GenerationConfig(
        eos_token_id=config.text_config.eos_token_id, pad_token_id=config.text_config.pad_token_id
    )
    return model.eval()


def build_processor() -> Qwen2_5_VLProcessor:
    """Return the processor. An image of the world keeps its 84×84 pixels and becomes nine image tokens."""
    tokenizer = make_tokenizer()
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=_MIN_PIXELS, max_pixels=_MAX_PIXELS),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )


def build_config(sizes: Sizes = TINY) -> Qwen2_5_VLConfig:
    """Return the configuration for the world's tokenizer: tied embeddings, image windows of 112 pixels."""
    ids = make_tokenizer().get_vocab()
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(ids),
            "hidden_size": sizes.width,
            "intermediate_size": sizes.mlp,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "rope_parameters": _rope(sizes.width // sizes.heads),
            "bos_token_id": None,
            "eos_token_id": ids[TURN_END],
            "pad_token_id": ids[END_OF_TEXT],
        },
        vision_config={
            "depth": sizes.vision_depth,
            "hidden_size": sizes.vision_width,
            "intermediate_size": sizes.vision_mlp,
            "num_heads": sizes.vision_heads,
            "out_hidden_size": sizes.width,
            "window_size": 112,
            # every fourth block sees the whole image, counted so that the last one does
            "fullatt_block_indexes": list(range((sizes.vision_depth - 1) % 4, sizes.vision_depth, 4)),
        },
        image_token_id=ids[IMAGE_PAD],
        video_token_id=ids[VIDEO_PAD],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
        dtype="float32",
    )


def _rope(head_width: int) -> dict[str, Any]:
    frequencies = head_width // 2
    spatial = frequencies * 3 // 8  # as in Qwen2.5-VL: time, height and width in proportions of 2 to 3 to 3
    return {
        "rope_type": "default",
        # Height and width use the lower frequencies. With Qwen's base of a million these would hardly turn over three
        # cells, and the model would be slow to tell one cell from the next.
        "rope_theta": 10.0,
        "mrope_section": [frequencies - 2 * spatial, spatial, spatial],
    }


@torch.no_grad()
def init_weights(model: Qwen2_5_VLForConditionalGeneration, seed: int, scale: float = 1.0) -> None:
    """Draw every weight from a normal distribution, without touching global seeds.

    The standard deviation is 1/√fan-in; that of embeddings is 1/√width, and projections that end a residual branch have
    a further factor 1/√(2·layers) (GPT-2's rule). Biases become 0, the weights of norms 1. The usual constant of 0.02
    is several times too small at these widths: a model that starts with it stays blind for hundreds of steps.

    Args:
        model: Changed in place.
        seed: Of the generator; the same seed gives the same weights.
        scale: Multiplies every standard deviation. An untrained model attends almost evenly to everything; with a
            larger scale it does not, and faults of attention masks show.
    """
    generator = torch.Generator().manual_seed(seed)
    _init_part(model.model.visual, model.config.vision_config.depth, generator, scale)
    _init_part(model.model.language_model, model.config.text_config.num_hidden_layers, generator, scale)


def _init_part(part: nn.Module, layers: int, generator: torch.Generator, scale: float) -> None:
    for name, module in part.named_modules():
        if isinstance(module, nn.Embedding):
            module.weight.normal_(0, scale * module.embedding_dim**-0.5, generator=generator)
        elif isinstance(module, nn.Linear | nn.Conv3d):
            fan_in = module.weight[0].numel()
            ends_branch = name.endswith(("attn.proj", "o_proj", "down_proj"))
            std = (fan_in * 2 * layers if ends_branch else fan_in) ** -0.5
            module.weight.normal_(0, scale * std, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif (weight := getattr(module, "weight", None)) is not None:
            weight.fill_(1)  # a norm's
