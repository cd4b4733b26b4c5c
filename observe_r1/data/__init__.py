"""From rows on disk to `Example`s: layouts, images, mixtures, order."""

from observe_r1.data.examples import load_examples
from observe_r1.data.format_prompts import FORMAT_PROMPTS, apply_format_prompt
from observe_r1.data.images import open_image
from observe_r1.data.mixture import load_data, mix_sequences
from observe_r1.data.order import Order

__all__ = [
    "FORMAT_PROMPTS",
    "Order",
    "apply_format_prompt",
    "load_data",
    "load_examples",
    "mix_sequences",
    "open_image",
]
