"""What both sides are given: questions with images on disk, lengths of responses, rewards of responses.

An untrained model neither ends its responses nor answers correctly, so a script says how long each response is and
which are correct. Both sides still do all the work: the end is forced token by token, and every text is scored before
the script replaces its score.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from observe_r1.data import load_examples
from observe_r1.demo.tiny_model import SPECIAL_TOKENS
from observe_r1.records import Example

PATCH = 14
"""Pixels a side of one patch; four patches become one image token."""


@dataclass(frozen=True, slots=True)
class Script:
    """Lengths (P, G) int64 of the responses to P prompts, and which of them are correct, (P, G) bool."""

    lengths: Tensor
    correct: Tensor

    def __str__(self) -> str:
        lengths = self.lengths.float()
        count, size = self.lengths.shape
        return f"{count} × {size} responses, mean {lengths.mean():.0f} tokens, longest {int(lengths.max())}"


def script(
    prompts: int, group_size: int, lengths: str, *, uninformative: int = 0, longest: int = 600, scale: float = 1.0
) -> Script:
    """Draw a script; the same for the same arguments.

    Args:
        prompts: P.
        group_size: G.
        lengths: `real` is log-normal, median 175 and σ 0.5, at most `longest`; `equal` is 175 each; `spread` runs
            evenly from 60 to 300. All in tokens, times `scale`.
        uninformative: so many first groups are alternately all correct and all wrong; in the others every second
            response is correct.
        longest: most tokens of a `real` response.
        scale: factor of the lengths, for tests.
    """
    generator = torch.Generator().manual_seed(3)
    count = prompts * group_size
    drawn = {
        "real": (175 * (0.5 * torch.randn(count, generator=generator)).exp()).clamp(max=longest),
        "equal": torch.full((count,), 175.0),
        "spread": torch.linspace(60, 300, group_size).repeat(prompts),
    }[lengths]
    correct = (torch.arange(count) % 2 == 0).view(prompts, group_size)
    for group in range(uninformative):
        correct[group] = group % 2 == 0
    return Script((drawn * scale).round().long().clamp(min=2).view(prompts, group_size), correct)


def random_responses(given: Script, vocabulary: int, end: int) -> list[Tensor]:
    """Draw P·G responses (R,) int64 of ordinary tokens, as long as `given` says, each ended by `end`; always the same.

    Args:
        given: the lengths R, the end included.
        vocabulary: rows of the model's embedding. Special tokens are the first of them, and none of those is drawn.
        end: id of the end-of-turn token.
    """
    generator = torch.Generator().manual_seed(4)
    responses = []
    for length in given.lengths.flatten().tolist():
        responses.append(torch.randint(len(SPECIAL_TOKENS), vocabulary, (length,), generator=generator))
        responses[-1][-1] = end
    return responses


def write_questions(folder: Path, count: int, grid: tuple[int, int], words: int = 66) -> list[Example]:
    """Write `count` questions of `words` words, each with an image of `grid` (height, width) patches, and read them."""
    generator = np.random.default_rng(0)
    height, width = grid
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        coarse = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width * PATCH, height * PATCH)).save(folder / f"{number}.png")
        parts = [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": "How many" + " red" * words}]
        rows.append({"id": str(number), "message": [{"role": "user", "content": parts}], "answer": "7"})
    (folder / "questions.json").write_text(json.dumps(rows))
    return list(load_examples(folder / "questions.json"))
