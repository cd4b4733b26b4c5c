"""The trained model as an ordinary Hugging Face checkpoint.

The weights are written in files of at most `_FILE` bytes (or one weight). On many ranks each writes files of its own,
as many at once as there are ranks: no process holds more than one file and the weight that is being gathered.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import logging as transformers_logging

from observe_r1 import __version__
from observe_r1.config import DataSettings
from observe_r1.data import FORMAT_PROMPTS
from observe_r1.errors import UserError
from observe_r1.files import replacing
from observe_r1.model.adapters import has_adapters, merged_weights, save_adapters
from observe_r1.model.loading import VisionLanguageModel

RECORD = "observe_r1.json"
"""Beside the weights: which format prompt they were trained with, so that the model can be asked the same way."""

ADAPTER = "adapter"
"""The folder in the model's that takes the LoRA adapters by themselves, if there are any."""

_FILE = 4 << 30
_Written = TypeVar("_Written")


def save_model(vlm: VisionLanguageModel, folder: Path, data: DataSettings) -> None:
    """Write a model as an ordinary checkpoint: float32 safetensors, configuration, processor and `RECORD`.

    Of a sharded model, all ranks must call this together; they must share the file system of `folder`.

    It loads with `AutoModelForImageTextToText.from_pretrained(folder)`. LoRA adapters are merged into it, and
    also saved by themselves in its `ADAPTER`, as peft reads them.

    Args:
        vlm: The model.
        folder: At every moment absent or complete; what is there is replaced.
        data: `data`, of which the format prompt is recorded.

    Raises:
        UserError: It cannot be written, for want of disk space for example; what was there before is still there.
    """
    transformers_logging.disable_progress_bar()
    record = {
        "observe_r1": __version__,
        "format_prompt": data.format_prompt,
        "format_prompt_place": data.format_prompt_place,
        "format_prompt_text": FORMAT_PROMPTS.get(data.format_prompt, ""),
    }
    with ExitStack() as stack:
        ranks = _Ranks(vlm.model)
        new = ranks.agree(folder, lambda: stack.enter_context(replacing(folder)) if ranks.own == 0 else None)[0]
        assert new is not None
        plain = _plain_model(vlm.model)

        def write_rest() -> None:
            if ranks.own == 0:
                plain.save_pretrained(new, state_dict={})
                vlm.processor.save_pretrained(new)
                (new / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            if has_adapters(vlm.model):
                save_adapters(vlm.model, vlm.masters, new / ADAPTER if ranks.own == 0 else None)

        ranks.agree(folder, write_rest)
        _write_weights(vlm, plain, new, ranks, folder)
        ranks.agree(folder, stack.close)


class _Ranks:
    """Those who hold a model together: all of the process group if it is sharded, else this process alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
        self.own = distributed.get_rank() if self._sharded else 0
        self.count = distributed.get_world_size() if self._sharded else 1

    def agree(self, folder: Path, write: Callable[[], _Written]) -> list[_Written]:
        """Write what is this rank's to write; return what `write` returned on every rank.

        Raises:
            UserError: One of the ranks could not write; raised on all of them.
        """
        written: Any = None
        failure: str | None = None
        try:
            written = write()
        except (OSError, SafetensorError, UserError) as error:
            failure, caught = str(error).splitlines()[0], error
        outcomes: list[Any] = [(written, failure)]
        if self._sharded:
            outcomes = [None] * self.count
            distributed.all_gather_object(outcomes, (written, failure))
        for _, failed in outcomes:
            if failed is not None:
                cause = caught if failure is not None else None
                raise UserError(f"cannot write the model to {str(folder)!r}: {failed}") from cause
        return [each for each, _ in outcomes]


def _write_weights(vlm: VisionLanguageModel, plain: PreTrainedModel, new: Path, ranks: _Ranks, folder: Path) -> None:
    """Write this rank's share of the weights, and on the first rank the index."""
    sizes = {name: 4 * weight.numel() for name, weight in plain.named_parameters()}
    files = _files(sizes, ranks.count)
    names = {
        name: f"model-{number + 1:05}-of-{len(files):05}.safetensors" for number, f in enumerate(files) for name in f
    }
    if len(files) == 1:
        names = dict.fromkeys(sizes, "model.safetensors")
    turns = {name: number // ranks.count for number, file in enumerate(files) for name in file}
    own = {name for file in files[ranks.own :: ranks.count] for name in file}
    index: dict[str, str] = {}
    held: dict[str, Tensor] = {}
    turn = 0

    def write() -> None:
        if held:
            file = names[next(iter(held))]
            stored = revert_weight_conversion(plain, {name: weight.contiguous() for name, weight in held.items()})
            save_file(stored, new / file, metadata={"format": "pt"})
            index.update(dict.fromkeys(stored, file))
        held.clear()

    for name, weight in merged_weights(vlm.model, vlm.masters, own):
        if turns[name] > turn:
            ranks.agree(folder, write)
            turn = turns[name]
        if weight is not None:
            held[name] = weight
    ranks.agree(folder, write)
    parts = ranks.agree(folder, lambda: index)
    if len(files) > 1 and ranks.own == 0:
        everything = dict(sorted(item for part in parts for item in part.items()))
        content = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": everything}
        (new / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _files(sizes: Mapping[str, int], ranks: int) -> list[list[str]]:
    """Split names, in their order, into files of about equal size: at least one a rank, none over `_FILE` bytes."""
    total, before = sum(sizes.values()), 0
    count = max(ranks, ceil(total / _FILE))
    files: list[list[str]] = [[] for _ in range(count)]
    for name, size in sizes.items():
        files[(before + size // 2) * count // total].append(name)
        before += size
    return [file for file in files if file]


def trained_format(path: str) -> tuple[str, str]:
    """Return the format prompt that a model was trained with, and its place.

    Args:
        path: Folder or Hub name; the `RECORD` in it says which. Without one, or if the Hub cannot be reached, the
            format is `none`.

    Raises:
        UserError: The record is not as training wrote it.
    """
    file: Path | str = Path(path) / RECORD
    try:
        if not Path(path).is_dir() and path.count("/") == 1:
            file = hf_hub_download(path, RECORD)
        record = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, HfHubHTTPError, HFValidationError, HTTPError):
        return "none", "system"
    except ValueError as error:
        raise UserError(f"{file}: not as training wrote it: {error}: put it back, or remove it") from error
    known = record if isinstance(record, dict) else {}
    name, place = (known.get(key) for key in ("format_prompt", "format_prompt_place"))
    if name not in (*FORMAT_PROMPTS, "none") or place not in ("system", "suffix"):
        raise UserError(f"{file}: asks for the format {name!r} in the place {place!r}: put it back, or remove it")
    return name, place


def _plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return `model` without weights, adapters and quantization: what transformers writes beside given weights."""
    kind = type(model)
    if issubclass(kind, FSDPModule):
        kind = kind.__mro__[kind._orig_cls_mro_index]
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    with torch.device("meta"):
        plain = kind(type(model.config).from_dict(config)).float()
    plain.generation_config = model.generation_config
    # How the weights were called in the checkpoint that `model` was read from, so that they are called so again.
    plain._weight_conversions = getattr(model, "_weight_conversions", None)
    return plain
