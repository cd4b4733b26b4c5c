"""The world's tokenizer: a byte-level BPE with Qwen's special tokens and a ChatML template.

It is trained on the world's own text until every word there is one token, an object such as ` red-circle` and a tag
such as ` </think>` included. Any other text still round-trips, in more tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from observe_r1.data.format_prompts import FORMAT_PROMPTS
from observe_r1.world.scene import COLOURS, SHAPES
from observe_r1.world.tasks import KINDS, Attribute

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
"""ChatML with image parts: the same text as Qwen2.5-VL's own template gives, its system message by default included."""

_LARGEST_NUMBER = 18
_WORDS = Regex(
    r" ?</?\p{L}+>"  # a tag
    r"| ?\p{L}+(?:-\p{L}+)*"  # a word, hyphens included
    r"| ?\p{N}+"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|\s+"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer; always the same one. Its end-of-sequence token is `<|im_end|>`."""
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
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _training_text() -> Iterator[str]:
    """Yield every word of the world at least once, in the surroundings in which it occurs."""
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
