"""Refuses libraries that are too old, and lets those with compiled parts for another build of torch import beside it.

The published wheels of torchvision, torchaudio and torchcodec are linked against the CUDA build of torch and cannot
load their operators beside a CPU build. torchvision then fails on import, because it registers fake kernels for
operators that do not exist; transformers' Qwen-VL image processors need only its Python transforms, so declaring those
operators is enough. transformers and vLLM import the other two if they are installed, for sound and video that no
one asks for here: they are made to look as if they were not.
"""

import importlib.util
import sys
import warnings
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from observe_r1.errors import UserError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_OPTIONAL = ("torchaudio", "torchcodec")
_OLDEST = {
    "torch": ("2.11", "its `varlen_attn` takes no scale, or is not there"),
    "transformers": ("5.18", "it drops `mm_encoder_outputs` without a word, and with it every image"),
}
"""The oldest release that works, as in pyproject.toml, and what is wrong with the one before."""
_library: torch.library.Library | None = None
_done = False


def ensure_importable() -> None:
    """Repair what cannot load, and only that. Call before using transformers; a second call does nothing.

    A torchvision made for another torch is told in one line on stderr.

    Raises:
        UserError: torch or transformers is too old, or such a torchvision cannot be imported.
    """
    global _done, _library
    if _done:
        return
    _refuse_too_old()
    _done = True
    loads = _loads("torchvision", "_C*.so")
    if not loads:
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
    if mismatch := _mismatch(loads):
        _try_torchvision(mismatch)
    for name in _OPTIONAL:
        if name not in sys.modules and not _loads(name, "**/*.so"):
            sys.modules[name] = None  # type: ignore[assignment]  # importing it is then an ImportError


def has_repaired() -> bool:
    """Whether something could not load here, so that other programs need the repair, too."""
    return _library is not None or any(sys.modules.get(name, ...) is None for name in _OPTIONAL)


def _refuse_too_old() -> None:
    for name, (oldest, fault) in _OLDEST.items():
        version = metadata.version(name)
        if Version(version) < Version(oldest):
            raise UserError(
                f"{name} {version} is too old ({fault}): `pip install '{name}>={oldest}'`, or all versions that are "
                "tested together (docs/install.md)"
            )


def _mismatch(loads: bool) -> str:
    """Return what torchvision and torch say of each other if they were not made together; else nothing.

    A CPU build of torch beside the package index's torchvision of the same version is common and does no harm.
    """
    try:
        torchvision = metadata.distribution("torchvision")
    except metadata.PackageNotFoundError:
        return ""  # its import says so
    version, build = torch.__version__.partition("+")[::2]
    needs = [Requirement(line) for line in torchvision.requires or ()]
    wanted = next((need.specifier for need in needs if need.name == "torch"), None)
    if wanted is not None and not wanted.contains(version, prereleases=True):
        return f"torchvision {torchvision.version} is made for torch{wanted}, and this is torch {torch.__version__}"
    other = torchvision.version.partition("+")[2]
    if torch.version.cuda and (not loads or (other and build and other != build)):
        return f"torchvision {torchvision.version} does not match the build of torch {torch.__version__}"
    return ""


def _try_torchvision(mismatch: str) -> None:
    """Say the mismatch; raise `UserError` if torchvision cannot be imported for it."""
    advice = "install both together, from one index (docs/install.md)"
    try:
        with warnings.catch_warnings(action="ignore"):  # torchvision says the same in five lines
            import torchvision  # noqa: F401
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{mismatch}; it cannot be imported ({reason}): {advice}") from error
    print(f"observe-r1: {mismatch}; it may fail: {advice}", file=sys.stderr)


def _loads(package: str, pattern: str) -> bool:
    """Whether the compiled part of `package` loads; True if the package is missing, and says so itself."""
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
