"""The three calls into a transformers vision-language model that policy and engines share.

Positions are always passed: left to itself the model keeps `rope_deltas` from one forward to the next.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from observe_r1.model.attention import AttentionLayout
from observe_r1.records import Prompt


def rope_positions(model: PreTrainedModel, prompt: Prompt) -> Tensor:
    """Return M-RoPE positions (3, P) of a prompt; a response continues at their maximum + 1 on all three axes."""
    positions, _ = model.model.get_rope_index(
        prompt.ids[None], mm_token_type_ids=prompt.token_types[None], image_grid_thw=prompt.image_grid
    )
    return positions[:, 0]


def encode_images(model: PreTrainedModel, prompts: Sequence[Prompt]) -> Any | None:
    """Run the image tower once over all images of `prompts`, in order.

    Returns transformers' encoder output, whose `pooler_output` holds one (tokens, hidden) tensor an image, or None
    where no prompt has an image.
    """
    with_images = [p for p in prompts if p.pixel_values is not None and p.image_grid is not None]
    if not with_images:
        return None
    pixels = torch.cat([p.pixel_values for p in with_images]).to(model.device)  # type: ignore[misc]
    grid = torch.cat([p.image_grid for p in with_images]).to(model.device)  # type: ignore[misc]
    return model.get_image_features(pixels, grid, return_dict=True)


def hidden_states(
    model: PreTrainedModel, ids: Tensor, positions: Tensor, layout: AttentionLayout, images: Any | None = None
) -> Tensor:
    """Return the text model's last hidden states (B, T, hidden) of `ids` (B, T) at `positions` (3, B, T)."""
    output = model.model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=None,
        use_cache=False,
        mm_encoder_outputs=None if images is None else {"image": images},
        layout=layout,
    )
    return output.last_hidden_state
