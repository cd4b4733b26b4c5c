"""Random Qwen2.5-VL models and groups for exactness tests: no tokenizer, weights wide enough that attention matters."""

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

from observe_r1.model.attention import use_shared_prefix
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.records import Completion, Example, Group, Prompt

VOCABULARY, IMAGE, VIDEO, VISION_START, VISION_END, STOP = 120, 100, 101, 102, 103, 104
EXAMPLE = Example(id="x", messages=(), images=(), answer="1")


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

    def rotate(query, key, cos, sin):
        cos, sin = cos.unsqueeze(-2).to(query.dtype), sin.unsqueeze(-2).to(query.dtype)
        return tuple(t * cos + modeling.rotate_half(t) * sin for t in (query, key))

    monkeypatch.setattr(modeling.Qwen2_5_VLRMSNorm, "forward", rms_norm)
    monkeypatch.setattr(modeling, "apply_rotary_pos_emb_vision", rotate)


def random_model(seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 0.3) -> VisionLanguageModel:
    """Two text layers with grouped queries, two vision layers (one windowed, one full)."""
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        text_config={
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
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale)
    use_shared_prefix(model)
    model.train()
    return VisionLanguageModel(model, processor=Processor(), forbidden=(IMAGE, VIDEO), stop_ids=(STOP,))


def random_prompt(
    grids: list[tuple[int, int]], text: int, generator: torch.Generator, dtype: torch.dtype, stream: int = 0
) -> Prompt:
    """A prompt of `text` random tokens after images of the given (height, width) in patches."""
    ids: list[int] = []
    for height, width in grids:
        ids += [VISION_START, *[IMAGE] * (height * width // 4), VISION_END]
    ids += torch.randint(0, 100, (text,), generator=generator).tolist()
    tensor = torch.tensor(ids)
    patches = sum(h * w for h, w in grids)
    return Prompt(
        ids=tensor,
        unexpanded_ids=tensor,
        token_types=(tensor == IMAGE).long(),
        images=(),
        pixel_values=torch.randn(patches, 1176, generator=generator, dtype=dtype) if grids else None,
        image_grid=torch.tensor([[1, h, w] for h, w in grids]) if grids else None,
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
    count = len(lengths)
    return Group(EXAMPLE, prompt, completions, torch.zeros(count), torch.zeros(count, dtype=torch.bool))


def plain_copy(vlm: VisionLanguageModel) -> Qwen2_5_VLForConditionalGeneration:
    """The same weights in an untouched transformers model; SDPA, because its eager softmax is always float32."""
    config = Qwen2_5_VLConfig.from_dict(vlm.model.config.to_dict())
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    model = model.to(vlm.model.dtype)
    model.load_state_dict(vlm.model.state_dict())
    return model.train()


def plain_logprobs(
    model: Qwen2_5_VLForConditionalGeneration,
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
