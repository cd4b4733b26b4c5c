"""The help of a command that takes settings, drawn from their types, defaults, bounds and docstrings."""

import shutil
import textwrap
from typing import Any, Literal, get_args, get_origin

from observe_r1.cli.flat_settings import default_settings
from observe_r1.cli.original_flags import FLAGS
from observe_r1.cli.recipe import packaged_recipes
from observe_r1.config import Section, setting_names
from observe_r1.registry import REGISTRY

_WIDEST = 100

_PURPOSE = {
    "train": "Train a vision-language model by reinforcement learning.",
    "sft": "Warm-start a vision-language model on demonstrations: chats that end with an assistant turn.",
    "data check": "Go over a whole dataset before a run: read every row, open every image, verify every gold answer.",
    "ladder build": "Make a dataset ordered from easy to hard for one model (NeuraLadder): screen, measure, arrange.",
    "ladder screen": "Drop questions that are not worth measuring: unverifiable, repeated, a benchmark's, too simple.",
    "ladder measure": "Sample responses to every screened question: its difficulty is the share that is wrong.",
    "ladder arrange": "Order measured questions from easy to hard, mix neighbouring levels, draw a size and shares.",
    "ladder review": "Show the questions that no response solved, with what was answered, and write a file to decide.",
    "ladder refresh": "Measure a ladder again with a newer model, and show how its questions moved between levels.",
}

_RECIPES = (
    "A recipe is a YAML file of the settings below, by section; `extends: other.yaml` in it builds on another. Packaged"
    " recipes go by their names, in any folder: {packaged}. Options override the recipe."
)

_TAKES = {
    "data check": (
        "FILE[,FILE]",
        "Each bad row is one line with all that is wrong with it: a question in no known layout, images missing or"
        " broken, a gold answer that no response could be compared with, a duplicate id. Rows that end with an"
        " assistant turn (demonstrations) need no gold answer. Then come counts, lengths and image sizes; with"
        " --model.path, lengths in tokens too. Exit code 0: all rows are good; 2: some are not.",
    ),
    "ladder build": (
        "SOURCE... --model MODEL --output DIR",
        "Sources are files in message format (JSON, JSONL, Parquet) and public datasets as NAME:PATH_OR_HUB_NAME, each"
        " bare or as --source SOURCE. The ladder is DIR/ladder.jsonl, and `observe-r1 train --data.path DIR` trains on"
        " it. Stopped or killed, the same command resumes where it was, as does `observe-r1 ladder build DIR`. --seed N"
        " seeds every stage, --skip-bad leaves broken rows out, and a recipe (YAML of the settings below, by section)"
        " may stand among the sources.",
    ),
    "ladder screen": (
        "SOURCE... --output DIR",
        "The first stage of a build; `observe-r1 ladder measure DIR` is the next. What passes is DIR/screened.jsonl,"
        " and DIR/dropped.jsonl says of every other row why not.",
    ),
    "ladder measure": (
        "DIR --model MODEL",
        "The second stage of a build, with what `ladder screen` let pass; `observe-r1 ladder arrange DIR` is the next."
        " Figures are in DIR/measured.jsonl, every response in DIR/responses.jsonl. Stopped or killed, the same"
        " command resumes where it was.",
    ),
    "ladder arrange": (
        "DIR",
        "The last stage of a build, which may be done again at any time: settings that are not given stay as they"
        " were, and what stands in DIR/review.yaml counts. The same files give the same ladder, byte by byte.",
    ),
    "ladder review": (
        "DIR",
        "Look at DIR/review.html, decide in DIR/review.yaml, then run `observe-r1 ladder arrange DIR`.",
    ),
    "ladder refresh": (
        "DIR --model CHECKPOINT",
        "The new figures are in DIR/refreshed-1 (then -2, …); the ladder stays as it is until `observe-r1 ladder"
        " arrange DIR --arrange.measured refreshed-1`.",
    ),
}
"""What stands before the options, and what the command does with it; else a recipe."""

_EXAMPLES = {
    "train": (
        "observe-r1 train observe_r1 --model.path ~/Qwen2.5-VL-3B --data.path ladder.jsonl",
        "observe-r1 train grpo --rollout.group_size 16 --objective.clip_high=0.28",
        "observe-r1 train --pretrain ~/Qwen2.5-VL-3B --prompt_data ladder.jsonl --use_bonus --shuffle",
    ),
    "sft": (
        "observe-r1 sft tiny/sft --run.steps 300",
        "observe-r1 sft --pretrain ~/Qwen2.5-VL-3B --dataset a.jsonl,b.jsonl --dataset_probs 0.3,0.7",
    ),
    "data check": (
        "observe-r1 data check questions.jsonl",
        "observe-r1 data check train.parquet --data.label_key reward_model.ground_truth",
        "observe-r1 data check a.jsonl,b.jsonl --model.path Qwen/Qwen2.5-VL-3B-Instruct",
    ),
    "ladder build": (
        "observe-r1 ladder build questions.jsonl --model Qwen/Qwen2.5-VL-3B-Instruct --output ladder",
        "observe-r1 ladder build geometry3k:hiyouga/geometry3k mmk12:FanqingM/MMK12 --model M --output ladder"
        " --arrange.size 20000 --arrange.shares published",
        "observe-r1 ladder build a.parquet --model M --output ladder --screen.models SMALL,SMALLER"
        " --rollout.engine vllm",
    ),
    "ladder screen": (
        "observe-r1 ladder screen a.jsonl b.jsonl --output ladder --screen.benchmarks mathvista:AI4Math/MathVista",
    ),
    "ladder measure": ("observe-r1 ladder measure ladder --model Qwen/Qwen2.5-VL-3B-Instruct --rollout.group_size 16",),
    "ladder arrange": ("observe-r1 ladder arrange ladder --arrange.size 5000 --seed 1",),
    "ladder review": ("observe-r1 ladder review ladder",),
    "ladder refresh": ("observe-r1 ladder refresh ladder --model runs/train/model",),
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
    takes, about = _TAKES.get(verb, ("[RECIPE]", _RECIPES))
    parts = [
        f"Usage: observe-r1 {verb} {takes} [--SECTION.SETTING VALUE ...]",
        textwrap.fill(_PURPOSE[verb], width),
        textwrap.fill(about.format(packaged=", ".join(packaged_recipes())), width),
        textwrap.fill(
            "Lists are written a,b or as YAML, mappings a=1,b=2; null unsets; --NAME alone switches a true|false"
            " setting on.",
            width,
        ),
        "Examples:\n" + "\n".join(f"  {example}" for example in _EXAMPLES[verb]),
    ]
    names, defaults = setting_names(kind), default_settings(kind)
    for section, field in kind.model_fields.items():
        lines = [f"{section}: {(field.annotation.__doc__ or '').strip()}"]
        lines += [
            _setting(name, info, defaults, width)
            for name, info in sorted(names.items(), key=lambda item: item[0] in defaults)  # what must be given first
            if name.startswith(f"{section}.")
        ]
        parts.append("\n".join(lines))
    if not verb.startswith("ladder "):
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
        if "." not in name and all(setting in known for setting in flag.sets):
            meaning = ": ".join(filter(None, (", ".join(flag.sets), flag.remark)))
            meanings.setdefault(meaning, []).append(f"--{name}")
    title = (
        "The flags of the original release and of OpenRLHF, alone or beside a recipe (settings given by name outrank"
        " them); docs/coming-from-openrlhf.md has the dotted names of OpenRLHF 0.11 beside them:"
    )
    lines = [
        textwrap.fill(f"{', '.join(names)}  →  {meaning}", width, initial_indent="  ", subsequent_indent=" " * 6)
        for meaning, names in meanings.items()
    ]
    return textwrap.fill(title, width) + "\n" + "\n".join(lines)
