"""Checkpoints of every family, in folders as one finds them on the Hub."""

import torch
from tiny import family_config
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from observe_r1.demo.tiny_model import IMAGE_PAD, TURN_END, VIDEO_PAD, VISION_END, VISION_START, make_tokenizer

PROCESSORS = {
    "qwen2_vl": (Qwen2VLProcessor, Qwen2VLVideoProcessor, 14),
    "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor, 16),
    "qwen3_5": (Qwen3VLProcessor, Qwen3VLVideoProcessor, 16),
}


def write_checkpoint(family, folder, **text):
    """An untrained model with the world's tokenizer and the family's own processor, patch size included.

    `text` are settings of the text model.
    """
    tokenizer = make_tokenizer()
    ids = tokenizer.get_vocab()
    processor, video_processor, patch = PROCESSORS[family]
    images = Qwen2VLImageProcessor(patch_size=patch, min_pixels=56 * 56, max_pixels=448 * 448)
    processor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=video_processor(patch_size=patch),
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    config = family_config(
        family,
        text | {"vocab_size": len(ids), "eos_token_id": ids[TURN_END]},
        {"patch_size": patch},
        image_token_id=ids[IMAGE_PAD],
        video_token_id=ids[VIDEO_PAD],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    model.generation_config = GenerationConfig(eos_token_id=ids[TURN_END])
    model.save_pretrained(folder)
    return folder
