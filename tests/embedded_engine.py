"""An embedded engine on a random model, prompts for it, and how two samplings are compared."""

from itertools import chain

import torch
from tiny import random_model, random_prompt

from observe_r1.rollout.embedded import EmbeddedEngine


def prompts(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shapes = [([(4, 6)], 5), ([], 12), ([(4, 4), (8, 4)], 3), ([(6, 4)], 20)]
    return [random_prompt(g, t, generator, dtype, stream=i) for i, (g, t) in enumerate(shapes)]


def engine(family="qwen2_5_vl", max_rows=64, **model):
    return EmbeddedEngine(random_model(family, dtype=torch.float32, scale=0.12, **model), max_rows=max_rows)


def same_tokens(groups, expected):
    """Check that responses are the same, and log-probabilities too but for rounding."""
    for completion, other in zip(chain(*groups), chain(*expected), strict=True):
        assert (completion.ids.tolist(), completion.text, completion.finish) == (
            other.ids.tolist(),
            other.text,
            other.finish,
        )
        torch.testing.assert_close(completion.logprobs, other.logprobs, atol=1e-4, rtol=0)
