"""Lets torchvision import beside a CPU build of torch.

torchvision's published wheel is linked against the CUDA build and cannot load its operators beside a CPU build of
torch; importing it then fails, because it registers fake kernels for operators that do not exist. Transformers' Qwen-VL
image processors need only its Python transforms, so declaring those operators is enough.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None


def ensure_torchvision() -> None:
    """Declare torchvision's operators if, and only if, the real ones cannot load. Call before using transformers."""
    global _library
    if _library is not None or _operators_load():
        return
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)


def _operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to repair: transformers reports the missing package itself
    binary = next(Path(spec.origin).parent.glob("_C*.so"), None)
    if binary is None:
        return False
    try:
        torch.ops.load_library(str(binary))
    except OSError:
        return False
    return True
