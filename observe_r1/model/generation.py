"""One answer, by transformers' own generation: word by word, for someone who watches."""

from collections.abc import Callable

import torch
from transformers import GenerationConfig, TextStreamer

from observe_r1.model.device import to_device
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.records import Prompt


def stream_answer(
    vlm: VisionLanguageModel,
    prompt: Prompt,
    write: Callable[[str], None],
    *,
    dtype: torch.dtype,
    temperature: float,
    max_new_tokens: int,
) -> bool:
    """Sample one response from the distribution that training samples from.

    Args:
        vlm: The model, in evaluation mode; from now on it attends as transformers does.
        prompt: What it answers.
        write: Is given the response without special tokens, a word or so at a time.
        dtype: Compute type.
        temperature: 0 takes the most probable token.
        max_new_tokens: Longest response, in tokens.

    Returns:
        Whether the response was cut off there, before its own end.
    """
    vlm.model.set_attn_implementation({"text_config": "sdpa"})  # a single response has no prefix to share
    ids, device = prompt.ids[None], vlm.device
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": prompt.token_types[None],
        "pixel_values": prompt.pixel_values,
        "image_grid_thw": prompt.image_grid,
    }
    drawn = {"temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature else {}
    # In place of the checkpoint's own, which transformers would merge with one that is given to `generate`.
    vlm.model.generation_config = GenerationConfig(
        do_sample=temperature > 0,
        **drawn,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(vlm.stop_ids),
        pad_token_id=vlm.stop_ids[0],
        suppress_tokens=list(vlm.suppressed_ids),
    )
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        generated = vlm.model.generate(
            **{name: to_device(each, device) for name, each in inputs.items() if each is not None},
            streamer=_Words(vlm.processor.tokenizer, write),
        )
    return int(generated[0, -1]) not in vlm.stop_ids


class _Words(TextStreamer):
    """Hands on what is generated, without the prompt and special tokens."""

    def __init__(self, tokenizer: object, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._write(text)
