"""A trained checkpoint for others: in the type that it is used in, and asking for its response format by itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from observe_r1.errors import UserError
from observe_r1.model.saving import ADAPTER, RECORD

_TEMPLATE = "chat_template.jinja"
_GENERATION = "generation_config.json"
_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_MOST_PROBABLE = {"do_sample": True, "temperature": 1e-6, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
"""As Qwen writes it: vLLM does not read `do_sample`, and takes such a temperature for 0. Whoever asks for a temperature
of their own then samples as training did."""


def copy_checkpoint(source: Path, new: Path, *, dtype: torch.dtype, max_new_tokens: int) -> None:
    """Copy the checkpoint that `save_model` wrote, ready for transformers and vLLM.

    Its chat template adds the format prompt if a chat does not have it, and its generation takes the most probable
    token and is as long as in training: what `observe-r1 evaluate` does.

    Args:
        source: The folder of the checkpoint.
        new: An empty folder.
        dtype: Of the weights in the files, which are copied one file at a time.
        max_new_tokens: Longest response.

    Raises:
        UserError: A file is missing, or not as training wrote it.
    """
    size = 0
    for path in sorted(source.iterdir()):
        if path.suffix == ".safetensors":
            try:
                weights = {name: weight.to(dtype) for name, weight in load_file(path).items()}
            except SafetensorError as error:
                raise UserError(f"{path}: not as training wrote it: {error}: put it back") from error
            size += sum(weight.nbytes for weight in weights.values())
            save_file(weights, new / path.name, {"format": "pt"})
        elif path.is_file():
            shutil.copyfile(path, new / path.name)
    if (index := new / _INDEX).is_file():
        _write(index, _read(index) | {"metadata": {"total_size": size}})
    _write(new / _CONFIG, _in_type(_read(new / _CONFIG), str(dtype).removeprefix("torch.")))
    _write(new / _GENERATION, _read(new / _GENERATION) | _MOST_PROBABLE | {"max_new_tokens": max_new_tokens})
    record, template = _read(new / RECORD), new / _TEMPLATE
    try:
        asked = asking(_text(template), str(record["format_prompt_text"]), str(record["format_prompt_place"]))
    except KeyError as error:
        raise UserError(f"{source / RECORD}: it has no {error}: put it back as training wrote it") from error
    template.write_text(asked, encoding="utf-8")


def copy_adapter(source: Path, new: Path) -> None:
    """Copy the LoRA adapters of a checkpoint alone. Raises: UserError: it has none."""
    if not (source / ADAPTER).is_dir():
        raise UserError(f"export.weights = 'adapter': {source} was trained without LoRA: leave it out")
    for path in (*(source / ADAPTER).iterdir(), source / RECORD):
        shutil.copyfile(path, new / path.name)


def asking(template: str, prompt: str, place: str) -> str:
    """Return a chat template that adds the format prompt to a chat that lacks it, then does what `template` does.

    Args:
        template: Of the model, in Jinja.
        prompt: The format prompt; without one `template` is returned.
        place: `system`: it becomes the system message, unless the chat has one of its own. `suffix`: it comes after the
            last turn.
    """
    if not prompt:
        return template
    text = json.dumps(prompt, ensure_ascii=False)
    if place == "system":
        turn = f'[{{"role": "system", "content": [{{"type": "text", "text": {text}}}]}}]'
        first = f"{{%- if messages[0].role != 'system' %}}{{%- set messages = {turn} + messages %}}{{%- endif %}}\n"
        return first + template
    suffix = json.dumps(f"\n\n{prompt}", ensure_ascii=False)
    return (
        "{%- set last = messages[-1] %}\n"
        "{%- set said = last.content if last.content is string else (last.content[-1].text or '') %}\n"
        f"{{%- if last.role == 'user' and not said.endswith({text}) %}}\n"
        f"{{%- set more = {suffix} if last.content is string else [{{'type': 'text', 'text': {suffix}}}] %}}\n"
        "{%- set messages = messages[:-1] + [{'role': 'user', 'content': last.content + more}] %}\n"
        "{%- endif %}\n"
    ) + template


def _in_type(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the configuration, and those of its parts, for weights of another type."""
    changed = {name: _in_type(value, dtype) if isinstance(value, dict) else value for name, value in config.items()}
    return changed | {"dtype": dtype} if "dtype" in config else changed


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path.name} is missing from the model, which is not as training wrote it") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path.name} of the model is not JSON: {error}: put it back as training wrote it") from error
    if not isinstance(found, dict):
        raise UserError(f"{path.name} of the model is no JSON object: put it back as training wrote it")
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
