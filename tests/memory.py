"""What a recipe needs of a GPU's memory, in bytes, from a model's sizes and the recipe's settings.

Upper bounds, by the rules that `docs/memory.md` explains; no GPU is asked.
"""

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from observe_r1.model.adapters import add_adapters

GIB = 2**30
PREFILL = 16384  # tokens that the embedded engine computes at once
LOGIT = 32  # bytes: the value in bfloat16, and float32 copies of it on the way to log-probability and entropy


def qwen2_5_vl_3b():
    """The sizes in the config.json of Qwen/Qwen2.5-VL-3B-Instruct."""
    return _qwen2_5_vl(151936, hidden=2048, mlp=11008, layers=36, heads=16, kv_heads=2, tied=True)


def qwen2_5_vl_7b():
    """The sizes in the config.json of Qwen/Qwen2.5-VL-7B-Instruct."""
    return _qwen2_5_vl(152064, hidden=3584, mlp=18944, layers=28, heads=28, kv_heads=4, tied=False)


def _qwen2_5_vl(vocabulary, *, hidden, mlp, layers, heads, kv_heads, tied):
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": hidden,
        },
        tie_word_embeddings=tied,
    )


def empty_model(config, settings=None):
    """The model without memory, with parts frozen and adapters added as `settings` (of the model) ask."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
        if settings is not None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(not name.startswith(settings.freeze))
            if settings.lora_rank:
                add_adapters(model, settings)
    return model


def layer_bytes(width, mlp):
    """Of one token in the layer that is being recomputed, its gradients included."""
    return 16 * width * 4 + 8 * mlp * 4


def resident(settings, model):
    """What is there from the first step to the last, by name."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    reference = settings.objective.kl_coef > 0 and not settings.model.lora_rank
    offload = settings.optimizer.offload
    moments = {"adamw": 8, "adamw_8bit": 2 + 2 * 4 / 256}[settings.optimizer.kind]  # a float32 scale a block of 256
    return {
        "weights": 2 * frozen + (2 if offload else 4) * trained,
        "copies in bfloat16": 0 if offload else 2 * trained,
        "moments": 0 if offload else moments * trained,
        "reference": 2 * (frozen + trained) if reference else 0,
        "image features": 0 if trains_tower(model) else settings.model.feature_cache * GIB,
    }


def updating(settings, model):
    """What an update adds, by name."""
    text, vision = model.config.text_config, model.config.vision_config
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    rollout, optimizer, data = settings.rollout, settings.optimizer, settings.data
    tokens = max(optimizer.tokens_per_pack, data.max_prompt_tokens + rollout.max_new_tokens)
    patches = vision.spatial_merge_size**2 * max(optimizer.tokens_per_pack, data.max_prompt_tokens)
    head = model.lm_head.weight
    table = (2 if optimizer.offload else 4) * head.numel() * head.requires_grad
    # A tied table's gradient, from the head, waits until all layers are done for that of the embeddings.
    waiting = table if head is model.get_input_embeddings().weight else 0
    largest = [
        tokens * layer_bytes(text.hidden_size, text.intermediate_size) + waiting,
        # What the chunks so far have added up to, and what this one adds.
        optimizer.head_chunk * text.vocab_size * LOGIT + 2 * table,
    ]
    inputs = text.num_hidden_layers * tokens * text.hidden_size * 2  # the residual stream is bfloat16
    if trains_tower(model):
        inputs += vision.depth * patches * vision.hidden_size * 2
        largest.append(patches * layer_bytes(vision.hidden_size, vision.intermediate_size) + waiting)
    return {
        # Offloaded: the one being made, and at most four that wait for the bus.
        "gradients": 2 * sum(sorted(trained)[-5:]) if optimizer.offload else 4 * sum(trained),
        "layers' inputs": inputs,
        "one layer or logits": max(largest),
    }


def cached_token(model):
    """Bytes of one token's keys and values in all layers, in bfloat16."""
    text = model.config.text_config
    width = text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * text.num_key_value_heads * width * 2


def sampling(settings, model):
    """What sampling adds, by name."""
    text, rollout = model.config.text_config, settings.rollout
    token = cached_token(model)
    alone = settings.evaluation.path is not None  # a greedy response is the only one to its prompt
    prompts = rollout.max_rows // (1 if alone else rollout.group_size)
    cached = rollout.max_rows * rollout.max_new_tokens + prompts * settings.data.max_prompt_tokens
    return {
        "key-value cache": 2 * cached * token,  # it is copied as rows come, go and grow
        "prefill": PREFILL * (6 * text.hidden_size * 4 + 4 * text.intermediate_size * 2),
        "logits": rollout.max_rows * text.vocab_size * LOGIT,
    }


def trains_tower(model):
    return any(parameter.requires_grad for parameter in model.model.visual.parameters())


def peak(settings, model):
    """The larger of the two moments."""
    moments = (updating(settings, model), sampling(settings, model))
    return sum(resident(settings, model).values()) + max(sum(moment.values()) for moment in moments)


def vllm_cache(settings, model, card, free):
    """What vLLM has for its cache on a GPU of `card` bytes, of which the share `free` is not used; negative where none.

    Beside the cache vLLM holds the weights a second time, in bfloat16, and needs memory to work in.
    """
    weights = 2 * sum(p.numel() for name, p in model.named_parameters() if ".lora_" not in name)
    return (1 - free) * card - sum(resident(settings, model).values()) - weights - working_memory(model, card)


def working_memory(model, card):
    """Activations of one layer, of the text or of images of as many tokens, and logits of all responses.

    vLLM's defaults depend on the GPU (`get_batch_defaults` in vllm/engine/arg_utils.py): 16,384 prompt tokens and 1,024
    responses at once from 70 GiB on, 8,192 and 256 below.
    """
    tokens, rows = (16384, 1024) if card >= 70 * GIB else (8192, 256)
    text, vision = model.config.text_config, model.config.vision_config
    patches = vision.spatial_merge_size**2 * tokens
    activations = max(
        2 * tokens * (8 * text.hidden_size + 3 * text.intermediate_size),
        2 * patches * (8 * vision.hidden_size + 3 * vision.intermediate_size),
    )
    return activations + 4 * 4 * rows * text.vocab_size  # float32, four times


def longest_group(settings, model):
    """Bytes of the cache of one prompt with its responses, all as long as may be: what vLLM must hold at the least."""
    rollout = settings.rollout
    return cached_token(model) * (rollout.group_size * rollout.max_new_tokens + settings.data.max_prompt_tokens)
