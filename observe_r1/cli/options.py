"""From a command line to settings: a recipe, dotted options over it, the original's flags between the two.

    observe-r1 train grpo --rollout.group_size 16 --objective.bonus=0.3

Layers, each over the one before: defaults, recipe, the original's flags, dotted options.
"""

import sys
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from observe_r1.cli.flag_kinds import Translation
from observe_r1.cli.flat_settings import default_settings, nest
from observe_r1.cli.help import describe
from observe_r1.cli.original_flags import FLAGS, translate
from observe_r1.cli.recipe import read_recipe
from observe_r1.cli.terminal import show
from observe_r1.config import Section, setting_names, validate
from observe_r1.errors import UserError
from observe_r1.registry import closest, did_you_mean
from observe_r1.yaml_text import parse_yaml

_PLACES = ("model.path", "data.path", "evaluation.path", "run.output")
"""Settings of which nobody means two values."""

_ELSEWHERE = {
    "dataset_name": "data.path",
    "gradient_accumulation_steps": "optimizer.minibatch",
    "lr_scheduler_type": "optimizer.schedule",
    "max_completion_length": "rollout.max_new_tokens",
    "max_prompt_length": "data.max_prompt_tokens",
    "max_steps": "run.steps",
    "model_name_or_path": "model.path",
    "num_generations": "rollout.group_size",
    "num_train_epochs": "run.epochs",
    "output_dir": "run.output",
    "per_device_train_batch_size": "optimizer.minibatch",
    "resume_from_checkpoint": "run.resume",
    "save_total_limit": "run.keep",
    "warmup_ratio": "optimizer.warmup",
}
"""What transformers' Trainer and TRL call our settings, where no flag of OpenRLHF has that name."""

BOOLEANS = ("true", "false", "yes", "no", "on", "off", "1", "0")
"""What may follow a true|false setting."""


@dataclass
class CommandLine:
    """A command line taken apart, values still as text."""

    recipe: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    """By setting name; the last of several counts."""
    flags: dict[str, list[str]] = field(default_factory=dict)
    """The original's flags by name, each with the words that followed it."""


def parse_settings(kind: type[Section], argv: Sequence[str], *, verb: str) -> Any:
    """Return the settings of `kind` that `argv` asks for; `--help` prints every setting and exits.

    What becomes of the original's flags is said on stderr. Errors: `UserError` for an unknown option, a
    missing or bad value, an unreadable or broken recipe, a required setting that nothing states.
    """
    if "-h" in argv or "--help" in argv:
        show(describe(kind, verb))
        raise SystemExit(0)
    given = read_command_line(kind, argv)
    names = setting_names(kind)
    options = {name: parse_value(names[name], text, f"--{name}") for name, text in given.options.items()}
    settings = default_settings(kind)
    if given.recipe is not None:
        settings |= read_recipe(given.recipe, kind)
    if given.flags:
        translation = Translation(settings, options, names)
        named_there = any(FLAGS[flag].sets in (("model.path",), ("data.path",)) for flag in given.flags)
        translate(given.flags, translation, alone=given.recipe is None and named_there)
        changes = {
            name: parse_value(names[name], value, name) if isinstance(value, str) else value
            for name, value in translation.changes.items()
        }
        for name, flag in translation.sources.items():
            if name in options and options[name] != changes[name]:
                _say_outranked(translation, name, flag)
        for note in translation.notes:
            print(f"observe-r1: {note}", file=sys.stderr)
        settings |= changes
    settings |= options
    for name, info in names.items():
        if info.is_required() and name not in settings:
            raise UserError(f"setting {name!r} is missing: write it in a recipe or give --{name}")
    together = f"{given.recipe} and the command line" if given.recipe else "command line"
    return validate(kind, nest(settings), "command line", together=together)


def read_command_line(kind: type[Section], argv: Sequence[str]) -> CommandLine:
    """Take `argv` apart. Errors: `UserError` for an unknown option, a missing value, a second recipe."""
    names = setting_names(kind)
    given = CommandLine()
    words = deque(argv)
    while words:
        word = words.popleft()
        refuse_undashed(word, {*names, *FLAGS})
        if not word.startswith("-"):
            _take_recipe(given, word)
            continue
        option, equals, inline = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if equals:
            words.appendleft(inline)
        if not option.startswith("--") or name not in (*names, *FLAGS, "config"):
            raise UserError(f"unknown option {option!r}{_suggest(name, names)}")
        if name == "config":
            _take_recipe(given, take_value(option, words, inline=bool(equals)))
        elif name in FLAGS:
            given.flags[name] = _take_words(option, FLAGS[name].words, words, inline=bool(equals))
        elif names[name].annotation is bool and not equals and not (words and words[0].lower() in BOOLEANS):
            given.options[name] = "true"
        else:
            given.options[name] = take_value(option, words, inline=bool(equals))
    return given


def parse_value(info: Any, text: str, source: str) -> Any:
    """Return the text of an option as pydantic shall validate it for the setting `info`.

    Scalars stay text: pydantic reads numbers and booleans itself (`1e-6` too, which YAML takes for a string),
    and a text setting gets text even where it looks like a number. `null` unsets an optional setting. Lists
    are comma-separated or YAML, mappings `a=1,b=2` or YAML.
    """
    optional = type(None) in get_args(info.annotation)
    if optional and text == "null":
        return None
    inner = info.annotation
    if optional:
        inner = next(kind for kind in get_args(inner) if kind is not type(None))
    shape = get_origin(inner)
    if shape not in (tuple, dict):
        return text
    if text.lstrip().startswith(("[", "{")):
        return parse_yaml(text, f"{source} = {text!r:.300}")
    items = [item.strip() for item in text.split(",")] if text else []
    if shape is tuple:
        return items
    pairs = [item.rpartition("=") for item in items]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise UserError(f"{source} = {text!r}: write it as name=value,name=value")
    return {name.strip(): parse_yaml(value, f"{source} = {text!r:.300}") for name, _, value in pairs}


def refuse_undashed(word: str, known: Collection[str]) -> None:
    """Raise `UserError` for an option of `known` without its two dashes; a file may have any name."""
    name = word.lstrip("-‐‑–—−").partition("=")[0].replace("-", "_")
    if not word.startswith("--") and name in known and ("=" in word or not Path(word).exists()):
        raise UserError(f"{word!r}: an option begins with two dashes: --{word.lstrip('-‐‑–—−')}")


def _say_outranked(translation: Translation, name: str, flag: str) -> None:
    value = translation.options[name]
    if name in _PLACES:
        given = translation.changes[name]
        raise UserError(f"--{name} {value} and --{flag} {given} are two values for {name}: give one")
    translation.remarks.setdefault(f"outranked by --{name} {value}", []).append(f"--{flag}")


def _take_recipe(given: CommandLine, word: str) -> None:
    if given.recipe is not None:
        raise UserError(f"unexpected {word!r}: the recipe is {given.recipe!r} already, and there can be only one")
    given.recipe = word


def take_value(option: str, words: deque[str], *, inline: bool = False) -> str:
    """Take the value of an option off the words after it. Errors: `UserError` where there is none."""
    if not words or (not inline and words[0].startswith("--")):
        raise UserError(f"option {option!r} needs a value")
    return words.popleft()


def _take_words(option: str, count: str, words: deque[str], *, inline: bool) -> list[str]:
    if count == "none":
        if inline:
            raise UserError(f"option {option!r} takes no value")
        return []
    taken = [take_value(option, words, inline=inline)]
    if count == "two":
        taken.append(take_value(option, words))
    while count == "several" and not inline and words and not words[0].startswith("-"):
        taken.append(words.popleft())
    return taken


def _suggest(name: str, settings: Collection[str]) -> str:
    """Name the option that is meant; a setting is found by its last part too: `--optimizer.lr` for `--lr`."""
    last: dict[str, list[str]] = {}
    for setting in settings:
        last.setdefault(setting.rpartition(".")[2], []).append(setting)
    elsewhere = [setting for setting in [_ELSEWHERE.get(name)] if setting in settings]
    meant = last.get(name) or elsewhere or closest(name, [*settings, *FLAGS, "config"])
    meant = meant or [setting for part in closest(name, last) for setting in last[part]]
    meant = meant or [setting for setting in settings if setting.startswith(f"{name}.")]  # a section: --model.path
    return did_you_mean([f"--{option}" for option in meant]) or "; --help lists them all"
