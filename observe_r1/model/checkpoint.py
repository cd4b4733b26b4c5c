"""The files of a checkpoint, checked before anything is loaded from them: each fault is one line that names the file.

transformers reads past much of this: it draws missing weights at random, unpickles, loads adapters that lie beside a
model, and ignores a `generation_config.json` that is not JSON. From the rest it raises whatever a value of the wrong
kind happens to raise.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GenerationConfig

from observe_r1.errors import UserError
from observe_r1.files import LFS_POINTER
from observe_r1.model.families import check_family

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_WITH_CODE = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)
"""Files that can name Python code to run."""
_OBJECTS = (
    *_WITH_CODE,
    "generation_config.json",
    "tokenizer.json",
    "vocab.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
)
"""Files that hold one JSON object each, if they are there."""
_NEVER_EMPTY = (*_WITH_CODE, "tokenizer.json")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MOST_LAYERS = 1000
"""transformers builds lists of as many as `config.json` says, before it sees any weight."""


def check_files(folder: Path, place: str, *, trust_code: bool) -> None:
    """Check that a folder holds the files of a model and its processor, each of the right kind.

    Args:
        folder: Of the checkpoint. Weights are not looked for; see `stored_weights`.
        place: Setting and value, with which errors begin.
        trust_code: Whether Python code that ships in the checkpoint may be run.

    Raises:
        UserError: A file is missing, damaged, of another model, or asks for code that may not be run.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise UserError(f"{place}: the folder cannot be read: {error.strerror}") from error
    if not names:
        raise UserError(f"{place}: the folder is empty")
    if "adapter_config.json" in names:
        base = _object(folder, "adapter_config.json", place).get("base_model_name_or_path")
        raise UserError(
            f"{place}: adapter_config.json makes it a LoRA adapter of {base!r}, which is not trained further: give "
            "that base model, or merge the adapter into it (peft's `merge_and_unload`) and save the whole"
        )
    if "config.json" not in names:
        inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
        where = f"; {inner[-1]!r} in it has one" if inner else ""
        raise UserError(f"{place}: no model: it has no config.json{where}")
    objects = {name: _object(folder, name, place) for name in _OBJECTS if name in names}
    _check_code(objects, place, trust_code)
    check_family(objects["config.json"].get("model_type"), place)
    _check_config(objects["config.json"], place)
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise UserError(f"{place}: no tokenizer: tokenizer.json is missing; copy it from the model that this is from")
    if not {"processor_config.json", "preprocessor_config.json"} & names:
        raise UserError(
            f"{place}: no image processor: preprocessor_config.json (or processor_config.json) is missing; copy it "
            "from the model that this is from"
        )
    if "generation_config.json" in names:
        _check_generation(folder, place)


def _check_code(objects: dict[str, dict[str, Any]], place: str, trust_code: bool) -> None:
    for name in _WITH_CODE:
        parts = objects.get(name, {})
        asked = any(isinstance(part, dict) and part.get("auto_map") for part in (parts, *parts.values()))
        if asked and not trust_code:
            raise UserError(
                f"{place}: {name} asks for Python code that ships in the checkpoint (auto_map), which is not run: read "
                "that code, then give --model.trust_remote_code; or take auto_map out"
            )


def _check_config(config: dict[str, Any], place: str) -> None:
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if not isinstance(part, dict):
            continue
        if quantized := part.get("quantization_config") or part.get("compression_config"):
            method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
            raise UserError(
                f"{place}: config.json says that its weights are quantized ({method!r:.40}), which cannot be "
                "trained: give the checkpoint that it was made from; --model.quantize loads that one in 8 or 4 bits"
            )
        for key in ("num_hidden_layers", "depth"):
            count = part.get(key, 1)
            if not isinstance(count, int) or not 0 < count <= _MOST_LAYERS:
                raise UserError(f"{place}: config.json: {key} = {count!r:.40}: it should be a number of layers")
    if "transformers_weights" in config:
        raise UserError(
            f"{place}: config.json takes the weights from another file (transformers_weights): rename that file to "
            f"{_WEIGHTS} and take the key out"
        )


def _check_generation(folder: Path, place: str) -> None:
    try:
        GenerationConfig.from_pretrained(folder).validate(strict=True)  # as when it is saved beside trained weights
    except Exception as error:  # whatever values of the wrong kind make transformers raise
        raise UserError(
            f"{place}: generation_config.json is not valid, and could not be saved after training "
            f"({brief(error)}): correct it, or remove the file"
        ) from error


def _object(folder: Path, name: str, place: str) -> dict[str, Any]:
    """Return the JSON object in the file `name`; raise `UserError` if it holds none or cannot be read."""
    path = folder / name
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        what = _damage(path) if path.is_symlink() or path.is_dir() else f"cannot be read ({error.strerror})"
        raise UserError(f"{place}: {name} {what}") from error
    except (ValueError, RecursionError) as error:
        what = _damage(path) or f"is not JSON ({brief(error)})"
        raise UserError(f"{place}: {name} {what}: fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{place}: {name} holds {json.dumps(value):.40}, not a JSON object: fetch it again")
    if not value and name in _NEVER_EMPTY:
        raise UserError(f"{place}: {name} holds an empty JSON object: fetch it again")
    return value


def stored_weights(folder: Path, place: str) -> Iterator[tuple[str, str, Tensor]]:
    """Yield file, name and tensor of every weight in a folder; a tensor's values are read when they are looked at.

    Args:
        folder: Of the checkpoint.
        place: Setting and value, with which errors begin.

    Raises:
        UserError: Weights are missing, damaged, quantized, there twice, or not safetensors.
    """
    seen: dict[str, str] = {}
    for file in _weight_files(folder, place):
        try:
            with safe_open(folder / file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 (it is no dict)
                    if name in seen:
                        raise UserError(f"{place}: {name!r} is in {seen[name]} and again in {file}: remove one of them")
                    seen[name] = file
                    tensor = weights.get_tensor(name)
                    if not tensor.is_floating_point() or tensor.element_size() < 2:
                        kind = str(tensor.dtype).removeprefix("torch.")
                        raise UserError(
                            f"{place}: {file}: {name!r} is held as {kind}: quantized weights cannot be trained; "
                            "give the checkpoint that it was made from"
                        )
                    yield file, name, tensor
        except (SafetensorError, OSError) as error:
            what = _damage(folder / file) or f"is damaged, or was not fetched whole ({brief(error)})"
            raise UserError(f"{place}: {file} {what}: fetch it again") from error


def check_finite(folder: Path, place: str, share: tuple[int, int] = (0, 1)) -> None:
    """Check that every weight is a finite number, in one pass over all: 2 s on one core for 3B in bfloat16.

    Args:
        folder: Of the checkpoint.
        place: Setting and value, with which errors begin.
        share: Number of this process, and how many read the folder at once: each reads and checks a part of it.

    Raises:
        UserError: One is NaN or infinite, or as `stored_weights`.
    """
    number, of = share
    for file, name, tensor in islice(stored_weights(folder, place), number, None, of):  # values are read when used
        if tensor.numel() and not all(map(torch.isfinite, tensor.aminmax())):  # both carry NaN along
            count = int((~tensor.isfinite()).sum())
            raise UserError(
                f"{place}: {file}: {count:,} of {tensor.numel():,} values of {name!r} are NaN or infinite: fetch it "
                "again, or take an earlier checkpoint of that training"
            )


def _weight_files(folder: Path, place: str) -> list[str]:
    """Return the names of the files that hold the weights, as transformers chooses them."""
    whole, index = (folder / _WEIGHTS).exists(), folder / _INDEX
    listed: list[str] = []
    if index.exists():
        weight_map = _object(folder, _INDEX, place).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise UserError(f"{place}: {_INDEX} has no weight_map of names to files: fetch it again")
        listed = sorted(set(weight_map.values()))
    if whole:
        if listed and listed != [_WEIGHTS]:
            raise UserError(
                f"{place}: holds weights twice, in {_WEIGHTS} and in the files that {_INDEX} names: remove one of them"
            )
        return [_WEIGHTS]
    absent = [file for file in listed if not (folder / file).exists()]
    if absent:
        raise UserError(
            f"{place}: {len(absent)} of the {len(listed)} weight files that {_INDEX} names are missing, the first is "
            f"{absent[0]!r}: fetch them"
        )
    if not listed:
        raise UserError(f"{place}: {_no_weights(folder)}")
    return listed


def _no_weights(folder: Path) -> str:
    """Say what is there in place of weights."""
    paths = sorted(folder.iterdir())
    for path in paths:
        if path.name.startswith("model") and path.suffix == ".safetensors" and not path.exists():
            return f"{path.name} {_damage(path)}: fetch it again"
    pickled = next((path.name for path in paths if path.suffix in _OTHER_WEIGHTS), None)
    if pickled and pickled.startswith("pytorch_model"):
        return (
            f"its weights are pickled ({pickled}), and unpickling can run any code: save them as safetensors once, by "
            "AutoModelForImageTextToText.from_pretrained(folder).save_pretrained(new_folder)"
        )
    if pickled:
        return f"no {_WEIGHTS}; {pickled} is a trainer's own: let that trainer write a Hugging Face checkpoint"
    if any(path.suffix == ".gguf" for path in paths):
        return f"no {_WEIGHTS}; its weights are GGUF's, for llama.cpp: give the checkpoint that it was made from"
    return f"no weights: it has neither {_WEIGHTS} nor {_INDEX}"


def _damage(path: Path) -> str:
    """Say what `path` is if it is a link to nothing or a pointer of Git LFS; else nothing."""
    if path.is_symlink() and not path.exists():
        return f"is a link to {str(path.readlink())!r}, which is not there"
    if not path.is_file():
        return "is no file"
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return "is a Git LFS pointer, not the file itself (`git lfs pull` in the folder fetches it)"
    return ""


def brief(error: Exception) -> str:
    """Return an error as one short line, with its type if the text alone says little."""
    line = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return line if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {line}"
