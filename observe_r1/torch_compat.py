"""Lets packages with compiled parts for another build of torch import beside this one.

The published wheels of torchvision, torchaudio and torchcodec are linked against the CUDA build of torch and cannot
load their operators beside a CPU build. torchvision then fails on import, because it registers fake kernels for
operators that do not exist; transformers' Qwen-VL image processors need only its Python transforms, so declaring those
operators is enough. transformers and vLLM import the other two where they are installed, for sound and video that no
one asks for here: they are made to look as if they were not.
"""

import importlib.util
import sys
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_OPTIONAL = ("torchaudio", "torchcodec")
_library: torch.library.Library | None = None


def ensure_importable() -> None:
    """Repair what cannot load, and only that. Call before using transformers; vLLM's processes call it as a plugin."""
    global _library
    if _library is not None:
        return
    if not _loads("torchvision", "_C*.so"):
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
    for name in _OPTIONAL:
        if name not in sys.modules and not _loads(name, "**/*.so"):
            sys.modules[name] = None  # type: ignore[assignment]  # importing it is then an ImportError


def has_repaired() -> bool:
    """Whether something could not load here, so that other programs need the repair, too."""
    return _library is not None or any(sys.modules.get(name, ...) is None for name in _OPTIONAL)


def _loads(package: str, pattern: str) -> bool:
    """Whether the compiled part of `package` loads; True where the package is missing, and says so itself."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return True
    binary = next(Path(spec.origin).parent.glob(pattern), None)
    if binary is None:
        return False
    try:
        torch.ops.load_library(str(binary))
    except OSError:
        return False
    return True
