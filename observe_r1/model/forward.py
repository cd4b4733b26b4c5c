"""The three calls into a transformers vision-language model that policy and engines share.

Positions are always passed: left to itself the model keeps `rope_deltas` from one forward to the next.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from observe_r1.model.device import to_device
from observe_r1.model.image_tower import Features
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.model.shared_prefix import AttentionLayout
from observe_r1.records import Prompt


def rope_positions(model: PreTrainedModel, prompt: Prompt) -> Tensor:
    """Return M-RoPE's positions (3, P) of a prompt, on the CPU.

    A response continues at their maximum + 1, on all three axes.
    """
    positions, _ = model.model.get_rope_index(
        prompt.ids[None], mm_token_type_ids=prompt.token_types[None], image_grid_thw=prompt.image_grid
    )
    return positions[:, 0]


def encode_images(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BaseModelOutputWithDeepstackFeatures | None:
    """Run the image tower once over the images of each prompt; of a frozen tower, over those not kept (`vlm.features`).

    Args:
        vlm: In the compute type, by autocast or by its weights.
        prompts: In the order in which they are in the packed sequence or in its rows; one may be there several times.

    Returns:
        Transformers' encoder output, whose `pooler_output` holds one (tokens, hidden) tensor for each image of each of
        `prompts`, in their order; None if no prompt has an image.
    """
    with_images = [prompt for prompt in prompts if prompt.image_grid is not None]
    if not with_images:
        return None
    unique = list(dict.fromkeys(with_images))
    if trains_tower(vlm.model):
        vlm.features.clear()
        by_prompt = _encode_together(vlm.model, unique)
    else:
        by_prompt = _encode_frozen(vlm, unique)
    images, *deepstack = zip(*(image for prompt in with_images for image in by_prompt[prompt]), strict=True)
    return BaseModelOutputWithDeepstackFeatures(pooler_output=images, deepstack_features=deepstack)


def trains_tower(model: PreTrainedModel) -> bool:
    """Whether any weight of the image tower is trained; if not, its features can be kept."""
    return any(parameter.requires_grad for parameter in model.model.visual.parameters())


def zero_of_blank_image(model: PreTrainedModel) -> Tensor:
    """Run the image tower on the smallest image, and return a scalar 0 through which every weight gets a gradient of 0.

    For a rank whose texts have no image while those of others do: all of them gather the tower's weights and reduce
    their gradients.
    """
    vision = model.config.vision_config
    side = 2 * vision.spatial_merge_size  # in patches
    width = model.model.visual.patch_embed.proj.weight[0].numel()
    (features,) = _run_tower(model, [torch.zeros(side**2, width)], torch.tensor([[1, side, side]]))
    return torch.stack([each.sum() * 0 for each in features]).sum()


def _encode_together(model: PreTrainedModel, prompts: Sequence[Prompt]) -> dict[Prompt, list[Features]]:
    """Encode all images in one run of the tower."""
    pixels = [p.pixel_values for p in prompts if p.pixel_values is not None]
    grids = [p.image_grid for p in prompts if p.image_grid is not None]
    features = iter(_run_tower(model, pixels, torch.cat(grids)))
    return {prompt: [next(features) for _ in grid] for prompt, grid in zip(prompts, grids, strict=True)}


@torch.no_grad()
def _encode_frozen(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> dict[Prompt, list[Features]]:
    """Encode the images that `vlm.features` does not hold."""
    device = vlm.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else vlm.model.dtype

    def run(pixels: Tensor, grid: Tensor) -> Features:
        return _run_tower(vlm.model, [pixels], grid)[0]

    return {prompt: vlm.features.features(prompt, dtype, run) for prompt in prompts}


def _run_tower(model: PreTrainedModel, pixels: Sequence[Tensor], grids: Tensor) -> list[Features]:
    """Return the features of each image."""
    device = model.model.visual.patch_embed.proj.weight.device  # of a sharded model the first may be elsewhere
    patches = torch.cat([to_device(part, device) for part in pixels])
    output = model.get_image_features(patches, to_device(grids, device), return_dict=True)
    return list(zip(output.pooler_output, *getattr(output, "deepstack_features", []), strict=True))


def hidden_states(
    model: PreTrainedModel,
    ids: Tensor,
    positions: Tensor,
    *,
    images: BaseModelOutputWithDeepstackFeatures | None = None,
    layout: AttentionLayout | None = None,
    cache: Cache | None = None,
    blank: Tensor | None = None,
) -> Tensor:
    """Run the text model.

    Args:
        model: The whole vision-language model.
        ids: (B, T) int64, with one placeholder for each token of an image.
        positions: (3, B, T) int64, M-RoPE's.
        images: Of all placeholders, from `encode_images`.
        layout: Which tokens see which, for models that share prefixes; the others attend causally.
        cache: Keys and values of the tokens before `ids`, for models that do not share prefixes.
        blank: From `zero_of_blank_image`, added to the embeddings of texts without images: the text model then has a
            backward pass wherever it has one for images, even if it is frozen.

    Returns:
        The last hidden states (B, T, hidden).
    """
    tokens = {"input_ids": ids} if blank is None else {"inputs_embeds": model.get_input_embeddings()(ids) + blank}
    output = model.model(
        **tokens,
        position_ids=positions,
        attention_mask=None,
        use_cache=False,
        mm_encoder_outputs=None if images is None else {"image": images},
        **({"past_key_values": cache} if layout is None else {"layout": layout}),
    )
    return output.last_hidden_state
