"""The three calls into a transformers vision-language model that policy and engines share.

Positions are always passed: left to itself the model keeps `rope_deltas` from one forward to the next.
"""

from collections.abc import Sequence
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from observe_r1.model.attention import AttentionLayout
from observe_r1.records import Prompt

_FEATURES: WeakKeyDictionary[PreTrainedModel, WeakKeyDictionary[Prompt, tuple[Tensor, ...]]] = WeakKeyDictionary()
"""Features of frozen image towers, by model and prompt."""


def rope_positions(model: PreTrainedModel, prompt: Prompt) -> Tensor:
    """Return M-RoPE positions (3, P) of a prompt; a response continues at their maximum + 1 on all three axes."""
    positions, _ = model.model.get_rope_index(
        prompt.ids[None], mm_token_type_ids=prompt.token_types[None], image_grid_thw=prompt.image_grid
    )
    return positions[:, 0]


def encode_images(model: PreTrainedModel, prompts: Sequence[Prompt]) -> BaseModelOutputWithPooling | None:
    """Run the image tower once over all images of `prompts`, in order.

    A frozen tower always says the same of a prompt: its features are kept as long as the prompt is, and reused by
    sampling, scoring and every update.

    Returns transformers' encoder output, whose `pooler_output` holds one (tokens, hidden) tensor an image, or None
    where no prompt has an image.
    """
    with_images = [prompt for prompt in prompts if prompt.image_grid is not None]
    if not with_images:
        return None
    if any(parameter.requires_grad for parameter in model.model.visual.parameters()):
        return BaseModelOutputWithPooling(pooler_output=tuple(chain(*_run_tower(model, with_images))))
    kept = _FEATURES.setdefault(model, WeakKeyDictionary())
    missing = [prompt for prompt in dict.fromkeys(with_images) if prompt not in kept]
    if missing:
        with torch.no_grad():
            kept.update(zip(missing, _run_tower(model, missing), strict=True))
    return BaseModelOutputWithPooling(pooler_output=tuple(chain(*(kept[prompt] for prompt in with_images))))


def _run_tower(model: PreTrainedModel, prompts: Sequence[Prompt]) -> list[tuple[Tensor, ...]]:
    """Return each prompt's image features, one (tokens, hidden) tensor an image."""
    pixels = torch.cat([p.pixel_values for p in prompts if p.pixel_values is not None]).to(model.device)
    grids = [p.image_grid for p in prompts if p.image_grid is not None]
    features = iter(model.get_image_features(pixels, torch.cat(grids).to(model.device), return_dict=True).pooler_output)
    return [tuple(next(features) for _ in grid) for grid in grids]


def hidden_states(
    model: PreTrainedModel,
    ids: Tensor,
    positions: Tensor,
    layout: AttentionLayout,
    images: BaseModelOutputWithPooling | None = None,
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
