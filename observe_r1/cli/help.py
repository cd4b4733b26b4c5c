"""The help of a command that takes settings, drawn from their types, defaults, bounds and docstrings."""

import shutil
import textwrap
from typing import Any, Literal, get_args, get_origin

from observe_r1.cli.flat_settings import default_settings
from observe_r1.cli.original_flags import FLAGS
from observe_r1.config import Section, setting_names
from observe_r1.registry import REGISTRY

_WIDEST = 100

_PURPOSE = {
    "train": "Train a vision-language model by reinforcement learning.",
    "sft": "Warm-start a vision-language model on demonstrations: chats that end with an assistant turn.",
}

_EXAMPLES = {
    "train": (
        "observe-r1 train recipes/observe_r1.yaml --model.path ~/Qwen2.5-VL-3B --data.path ladder.jsonl",
        "observe-r1 train recipes/grpo.yaml --rollout.group_size 16 --objective.clip_high=0.28",
        "observe-r1 train --pretrain ~/Qwen2.5-VL-3B --prompt_data ladder.jsonl --use_bonus --shuffle",
    ),
    "sft": (
        "observe-r1 sft recipes/tiny/sft.yaml --run.steps 300",
        "observe-r1 sft --pretrain ~/Qwen2.5-VL-3B --dataset a.jsonl,b.jsonl --dataset_probs 0.3,0.7",
    ),
}

_REGISTRIES = {
    "data.order": "order",
    "optimizer.kind": "optimizer",
    "rollout.engine": "engine",
    "objective.estimator": "estimator",
    "objective.kl_estimator": "kl estimator",
    "objective.aggregation": "aggregation",
}
"""Settings whose values are names in a registry."""

_TYPE_WORDS = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT"}
_BOUND_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def describe(kind: type[Section], verb: str) -> str:
    """Return the help text of the command `verb`, whose settings are `kind`."""
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    parts = [
        f"Usage: observe-r1 {verb} [RECIPE.yaml] [--SECTION.SETTING VALUE ...]",
        textwrap.fill(_PURPOSE[verb], width),
        textwrap.fill(
            "A recipe is a YAML file of the settings below, by section; `extends: other.yaml` in it builds on"
            " another. Options override the recipe. Lists are written a,b or as YAML, mappings a=1,b=2; null"
            " unsets; --NAME alone switches a true|false setting on.",
            width,
        ),
        "Examples:\n" + "\n".join(f"  {example}" for example in _EXAMPLES[verb]),
    ]
    names, defaults = setting_names(kind), default_settings(kind)
    for section, field in kind.model_fields.items():
        lines = [f"{section}: {(field.annotation.__doc__ or '').strip()}"]
        lines += [
            _setting(name, info, defaults, width) for name, info in names.items() if name.startswith(f"{section}.")
        ]
        parts.append("\n".join(lines))
    parts.append(_original(kind, width))
    return "\n\n".join(parts) + "\n"


def _setting(name: str, info: Any, defaults: dict[str, Any], width: int) -> str:
    facts = [f"default {_written(defaults[name])}" if name in defaults else "required"]
    facts += [
        f"{sign} {getattr(bound, key):g}"
        for bound in info.metadata
        for key, sign in _BOUND_SIGNS.items()
        if getattr(bound, key, None) is not None
    ]
    head = f"  --{name} {_value_word(name, info.annotation)}  ({', '.join(facts)})"
    meaning = " ".join((info.description or "").split())
    indent = " " * 6
    return head + "\n" + textwrap.fill(meaning, width, initial_indent=indent, subsequent_indent=indent)


def _written(value: Any) -> str:
    """Return a default as it would be typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(f"{key}={item:g}" for key, item in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value)


def _value_word(name: str, annotation: Any) -> str:
    if name in _REGISTRIES:
        return "|".join(REGISTRY[_REGISTRIES[name]])
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return ",".join("…" if part is ... else _value_word(name, part) for part in get_args(annotation))
    if get_origin(annotation) is dict:
        return "NAME=NUMBER,…"
    inner = [part for part in get_args(annotation) if part is not type(None)]
    return _value_word(name, inner[0]) if inner else _TYPE_WORDS[annotation]


def _original(kind: type[Section], width: int) -> str:
    """Return the flags of the original that this command takes; those that share a remark share its line."""
    known = setting_names(kind)
    meanings: dict[str, list[str]] = {}
    for name, flag in FLAGS.items():
        if all(setting in known for setting in flag.sets):
            meaning = ": ".join(filter(None, (", ".join(flag.sets), flag.remark)))
            meanings.setdefault(meaning, []).append(f"--{name}")
    title = "The flags of the original release, alone or beside a recipe (settings given by name outrank them):"
    lines = [
        textwrap.fill(f"{', '.join(names)}  →  {meaning}", width, initial_indent="  ", subsequent_indent=" " * 6)
        for meaning, names in meanings.items()
    ]
    return textwrap.fill(title, width) + "\n" + "\n".join(lines)
