"""The models of the benchmarks: random weights in real architectures, with the tokenizer of the demo's world."""

from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from observe_r1.demo.tiny_model import Sizes, build_config, build_processor

SMALL = Sizes(
    width=512,
    layers=6,
    heads=8,
    kv_heads=4,
    mlp=1024,
    vision_width=320,
    vision_depth=6,
    vision_heads=5,
    vision_mlp=640,
)
"""23 million parameters, six layers each in text model and image tower."""
QWEN2_5_VL_3B = Sizes(
    width=2048,
    layers=36,
    heads=16,
    kv_heads=2,
    mlp=11008,
    vision_width=1280,
    vision_depth=32,
    vision_heads=16,
    vision_mlp=3420,
)
"""Those in the config.json of Qwen/Qwen2.5-VL-3B-Instruct."""
VOCABULARY = 151_936
"""Qwen's. The demo's tokenizer knows the first few hundred; the others decode to nothing."""


def random_model(sizes: Sizes, *, vocabulary: int, device: str = "cpu") -> Qwen2_5_VLForConditionalGeneration:
    """Return a model of random weights in bfloat16, made on `device`; the same for the same arguments."""
    config = build_config(sizes)
    config.text_config.vocab_size = vocabulary
    if sizes.vision_depth == QWEN2_5_VL_3B.vision_depth:
        config.vision_config.fullatt_block_indexes = [7, 15, 23, 31]
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)


def make_model(folder: Path, sizes: Sizes, *, vocabulary: int, device: str = "cpu") -> Path:
    """Write a checkpoint of random weights in bfloat16, made on `device`, and return its folder."""
    model = random_model(sizes, vocabulary=vocabulary, device=device)
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    model.generation_config.pad_token_id = model.config.text_config.pad_token_id
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder
