"""Random models of each family and groups for exactness tests: no tokenizer, weights so wide that attention matters."""

from collections.abc import Sequence
from importlib import import_module

import torch
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3_5Config,
    Qwen3VLConfig,
)

from observe_r1.model.families import prepare_model
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.records import Completion, Example, Group, Prompt, TrainingGroup

VOCABULARY, IMAGE, VIDEO, VISION_START, VISION_END, STOP = 120, 100, 101, 102, 103, 104
EXAMPLE = Example(id="x", messages=(), images=(), answer="1")
SHARING = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
FAMILIES = (*SHARING, "qwen3_5")

_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_TEXT = {
    "vocab_size": VOCABULARY,
    "bos_token_id": None,
    "eos_token_id": STOP,
    "pad_token_id": None,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_parameters": _ROPE,
}
_WIDE_HEADS = {"head_dim": 16, "rope_parameters": _ROPE | {"mrope_interleaved": True, "mrope_section": [4, 2, 2]}}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "partial_rotary_factor": 1.0,
}
_SLIDING = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
_VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 32}
_WINDOWED = _VISION | {"window_size": 56, "fullatt_block_indexes": [1]}  # the first layer windowed, the second full
_PATCH_14 = _VISION | {"patch_size": 14, "num_position_embeddings": 16}  # as Qwen2's: one prompt serves every family
_CONFIGS = {
    "qwen2_5_vl": (Qwen2_5_VLConfig, _TEXT, _WINDOWED),
    "qwen2_vl": (
        Qwen2VLConfig,
        _TEXT,
        {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
    ),
    "qwen3_vl": (Qwen3VLConfig, _TEXT | _WIDE_HEADS, _PATCH_14 | {"deepstack_visual_indexes": [0]}),
    "qwen3_5": (Qwen3_5Config, _TEXT | _WIDE_HEADS | _LINEAR, _PATCH_14),
    "sliding window": (Qwen2_5_VLConfig, _TEXT | _SLIDING, _WINDOWED),
}


class Letters:
    """A tokenizer of one character a token, for engines that decode."""

    eos_token_id = STOP

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(33 + i) for i in ids if i < 100 or not skip_special_tokens)


class Processor:
    tokenizer = Letters()


def keep_float64(monkeypatch) -> None:
    """Compute transformers' RMSNorm and image rotary embedding in the tensors' own type.

    Both cast to float32 inside, so that a sum of gradients and the gradient of a sum differ by float32's rounding.
    Patched for the packed and the plain model alike.
    """

    def rms_norm(self, states):
        return self.weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotation(rotate_half):
        def rotate(query, key, cos, sin):
            cos, sin = cos.unsqueeze(-2).to(query.dtype), sin.unsqueeze(-2).to(query.dtype)
            return tuple(t * cos + rotate_half(t) * sin for t in (query, key))

        return rotate

    for family, norm in {
        "qwen2_5_vl": "Qwen2_5_VLRMSNorm",
        "qwen2_vl": "Qwen2VLRMSNorm",
        "qwen3_vl": "Qwen3VLTextRMSNorm",
    }.items():
        modeling = import_module(f"transformers.models.{family}.modeling_{family}")
        monkeypatch.setattr(getattr(modeling, norm), "forward", rms_norm)
        monkeypatch.setattr(modeling, "apply_rotary_pos_emb_vision", rotation(modeling.rotate_half))


def family_config(family: str, text: dict | None = None, vision: dict | None = None, **ids: int) -> PreTrainedConfig:
    """Two text layers with grouped queries and two vision layers, with what `text`, `vision` and `ids` change."""
    kind, common_text, common_vision = _CONFIGS[family]
    tokens = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }
    return kind(text_config=common_text | (text or {}), vision_config=common_vision | (vision or {}), **(tokens | ids))


def random_model(
    family: str = "qwen2_5_vl", seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 0.3
) -> VisionLanguageModel:
    """A model of `family_config`."""
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(family_config(family)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale)
    prepare_model(model, torch.float32)
    model.train()
    return VisionLanguageModel(model, processor=Processor(), suppressed_ids=(IMAGE, VIDEO), stop_ids=(STOP,))


def random_prompt(
    grids: list[tuple[int, int]], text: int, generator: torch.Generator, dtype: torch.dtype, stream: int = 0
) -> Prompt:
    """A prompt of `text` random tokens after images of the given (height, width) in patches."""
    ids: list[int] = []
    for height, width in grids:
        ids += [VISION_START, *[IMAGE] * (height * width // 4), VISION_END]
    ids += torch.randint(0, 100, (text,), generator=generator).tolist()
    tensor = torch.tensor(ids)
    pixels = torch.randn(sum(h * w for h, w in grids), 1176, generator=generator, dtype=dtype)
    images = pixels.split([h * w for h, w in grids]) if grids else ()
    return Prompt(
        ids=tensor,
        token_types=(tensor == IMAGE).long(),
        pixel_values=pixels if grids else None,
        image_grid=torch.tensor([[1, h, w] for h, w in grids]) if grids else None,
        image_digests=tuple(f"{h} {w} {image.sum()}".encode() for (h, w), image in zip(grids, images, strict=True)),
        stream=stream,
    )


def random_group(
    grids: list[tuple[int, int]],
    lengths: list[int],
    seed: int = 0,
    text: int = 7,
    dtype: torch.dtype = torch.float64,
) -> Group:
    """A group with random responses of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    prompt = random_prompt(grids, text, generator, dtype)
    completions = tuple(
        Completion(
            ids=torch.randint(0, 100, (length,), generator=generator),
            logprobs=torch.full((length,), -3.0),
            text="",
            version=0,
            finish="stop",
        )
        for length in lengths
    )
    return group_of(prompt, completions)


def group_of(prompt: Prompt, completions: Sequence[Completion]) -> Group:
    """A group whose responses are all wrong, and teach nothing."""
    nothing = torch.zeros(len(completions))
    return Group(EXAMPLE, prompt, tuple(completions), nothing, nothing.bool(), nothing, 0.0, nothing)


def training_group(
    group: Group,
    advantages: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    **streams: torch.Tensor | None,
) -> TrainingGroup:
    """The group with the streams given, and ones for what is not."""
    sampled = torch.cat([completion.logprobs for completion in group.completions])
    ones = torch.ones(sum(group.lengths))
    advantages = ones if advantages is None else advantages
    return TrainingGroup(group, advantages, ones if weights is None else weights, sampled, **streams)


def plain_copy(vlm: VisionLanguageModel) -> PreTrainedModel:
    """The same weights in an untouched transformers model; SDPA, because its eager softmax is always float32."""
    config = type(vlm.model.config).from_dict(vlm.model.config.to_dict())
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    model = model.to(vlm.model.dtype)
    model.load_state_dict(vlm.model.state_dict())
    return model.train()


def plain_logprobs(
    model: PreTrainedModel,
    prompt: Prompt,
    response: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """(R,): transformers' own forward on one prompt and one response, positions its own."""
    ids = torch.cat([prompt.ids, response])[None]
    types = torch.cat([prompt.token_types, torch.zeros_like(response)])[None]
    model.model.rope_deltas = None
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid,
        mm_token_type_ids=types,
        use_cache=False,
    ).logits[0]
    logits = logits[len(prompt.ids) - 1 : -1] / temperature
    logits = logits.index_fill(1, torch.tensor([IMAGE, VIDEO]), float("-inf"))
    return logits.log_softmax(-1).gather(1, response[:, None])[:, 0]
