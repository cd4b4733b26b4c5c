"""Features of a frozen image tower, kept from step to step within a memory bound.

A frozen tower always says the same of an image, so sampling, every update and the next epoch read what was computed
once. Features stay on the device where they were made: the bound is the user's, and reading them back costs nothing.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from observe_r1.records import Prompt

Features = tuple[Tensor, ...]
"""What a tower says of one image: (tokens, hidden), then one such tensor for each early text layer that is shown the
image again (Qwen3-VL's deepstack)."""


class FeatureCache:
    """Features of one model's frozen tower by image content, at most `gib` GiB; those used longest ago go first."""

    def __init__(self, gib: float = 1.0) -> None:
        self.limit = int(gib * 2**30)
        self.used = 0
        """Bytes kept."""
        self._kept: OrderedDict[bytes, Features] = OrderedDict()
        self._digests: WeakKeyDictionary[Prompt, list[bytes]] = WeakKeyDictionary()

    def clear(self) -> None:
        """Forget everything: the tower's weights may change."""
        self._kept.clear()
        self.used = 0

    def features(self, prompt: Prompt, dtype: torch.dtype, run: Callable[[Tensor, Tensor], Features]) -> list[Features]:
        """Return the features of each image of `prompt`; `run(pixels, grid)` computes those not kept in `dtype`.

        It is given one image at a time, (patches, width) and (1, 3): the last bits of a matrix product depend on how
        many rows it has, and a resumed run, whose cache is empty, must see the features that the first run kept.
        """
        images = split_images(prompt)
        if prompt not in self._digests:
            self._digests[prompt] = [_digest(*image) for image in images]
        features = []
        for digest, image in zip(self._digests[prompt], images, strict=True):
            key = digest + str(dtype).encode()
            found = self._kept.pop(key, None)
            if found is None:
                found = run(*image)
                self.used += _bytes(found)
            self._kept[key] = found
            features.append(found)
            while self.used > self.limit:
                self.used -= _bytes(self._kept.popitem(last=False)[1])
        return features


def split_images(prompt: Prompt) -> list[tuple[Tensor, Tensor]]:
    """Return (pixels, grid) of each image of a prompt that has images."""
    assert prompt.pixel_values is not None and prompt.image_grid is not None
    pixels = prompt.pixel_values.split(prompt.image_grid.prod(dim=1).tolist())
    return list(zip(pixels, prompt.image_grid.split(1), strict=True))


def _digest(pixels: Tensor, grid: Tensor) -> bytes:
    digest = hashlib.blake2b(grid.numpy().tobytes(), digest_size=16)
    digest.update(pixels.numpy().data)
    return digest.digest()


def _bytes(features: Features) -> int:
    return sum(feature.numel() * feature.element_size() for feature in features)
