"""The words of a command, sorted: its options with their values, flags of OpenRLHF, a recipe, a ladder's sources."""

import json
import os
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from observe_r1.cli.commands import COMMANDS, Command
from observe_r1.cli.recipe import packaged_recipes
from observe_r1.config import Section, setting_names
from observe_r1.errors import UserError
from observe_r1.registry import beside, closest, did_you_mean

if TYPE_CHECKING:
    from observe_r1.cli.openrlhf.flags import Flag

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
"""What transformers' Trainer and TRL call our settings, if no flag of OpenRLHF has that name."""

_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "1", "0")
"""What may follow a true|false setting."""
_DASHES = "-‐‑–—−"
_RECORDED = "ladder.yaml"
"""The settings of a ladder, in its folder."""


@dataclass
class CommandLine:
    """The words of a command, sorted; values are still text."""

    recipe: str | None = None
    sources: tuple[str, ...] = ()
    """Of a ladder."""
    options: dict[str, str] = field(default_factory=dict)
    """By setting; if one is given twice, the last counts."""
    flags: dict[str, list[str]] = field(default_factory=dict)
    """Flags of OpenRLHF by name, each with the words that follow it."""


def read_words(command: Command, kind: type[Section], argv: Sequence[str]) -> CommandLine:
    """Sort the words of `command`.

    Raises:
        UserError: an option is unknown or has no value, or a word is too many.
    """
    reader = _Reader(command, kind, argv)
    while reader.words:
        reader.take_next()
    {
        "recipe": _recipe,
        "file": _file,
        "sources": _ladder,
        "folder": _ladder,
        "model": _model,
        "run": _run,
        "push": _push,
        "reported": _reported,
        "compared": _compared,
    }[command.words](reader)
    reader.given.options = reader.broad | reader.given.options
    return reader.given


_BARE = {
    "file": ["data.path"],
    "model": ["model.path", "data.path"],
    "run": ["export.run"],
    "push": ["push.ladder", "push.repo"],
    "reported": ["report.folders"],
    "compared": ["compare.runs"],
}
"""Settings that the words before the options give, by what a command's words mean."""


def how_to_give(command: Command, setting: str) -> str:
    """Return how somebody who types `command` gives it a setting: as a word, by its short name, or in a recipe."""
    usage = f"`observe-r1 {command.name} {command.takes}`"
    if setting in _BARE.get(command.words, ()):
        return f"the command is {usage}"
    short = next((name for name, settings in command.short.items() if settings == (setting,)), None)
    if command.words == "recipe":
        return f"write it in a recipe or give --{short or setting}"
    return f"give --{short or setting}; the command is {usage}"


class _Reader:
    """Takes words from the left: options and their values into `given`, all others into `bare`."""

    def __init__(self, command: Command, kind: type[Section], argv: Sequence[str]) -> None:
        self.command = command
        self.everything = setting_names(kind)
        sections = command.sections or tuple(kind.model_fields)
        self.names = {name: info for name, info in self.everything.items() if name.partition(".")[0] in sections}
        self.words = deque(argv)
        self.given = CommandLine()
        self.broad: dict[str, str] = {}
        """Values of short names for several settings, such as `--seed`; a setting's own name counts for more."""
        self.bare: list[str] = []
        self._spelled: dict[str, str] = {}
        """The option that each setting was given by."""

    def take_next(self) -> None:
        word = self.words.popleft()
        if not word.startswith("--"):
            self._refuse_undashed(word)
        if not word.startswith("-"):
            self.bare.append(word)
            return
        option, equals, value = word.partition("=")
        inline = bool(equals)
        if inline:
            self.words.appendleft(value)
        name = option.removeprefix("--").replace("-", "_") if option.startswith("--") else ""
        if name in self.names or name in self.command.short:
            self._take_setting(option, name, inline)
        elif name == "config":
            self.take_recipe(self._value(option, inline))
        elif name == "source" and self.command.words == "sources":
            self.bare.append(self._value(option, inline))
        elif self.command.openrlhf and name in _flags():
            self.given.flags[name] = self._flag_words(option, _flags()[name].words, inline)
        else:
            raise UserError(self._unknown(option))

    def take_recipe(self, word: str) -> None:
        if self.given.recipe is not None:
            raise UserError(f"unexpected {word!r}: there can be only one recipe, and it is {self.given.recipe!r}")
        self.given.recipe = word

    def _take_setting(self, option: str, name: str, inline: bool) -> None:
        settings = self.command.short.get(name, (name,))
        is_switch = self.names[settings[0]].annotation is bool
        if is_switch and not inline and not (self.words and self.words[0].lower() in _BOOLEANS):
            value = "true"
        else:
            value = self._value(option, inline)
        if len(settings) > 1:
            self.broad |= dict.fromkeys(settings, value)
            return
        other = self._spelled.setdefault(settings[0], name)
        before = self.given.options.get(settings[0], value)
        if other != name and before != value:
            raise UserError(f"--{other} {before} and {option} {value} are two values for {settings[0]}: give one")
        self.given.options[settings[0]] = value

    def _value(self, option: str, inline: bool) -> str:
        if not self.words or (not inline and self.words[0].startswith("--")):
            raise UserError(f"option {option!r} needs a value")
        return self.words.popleft()

    def _flag_words(self, option: str, count: str, inline: bool) -> list[str]:
        if count == "none":
            if inline:
                raise UserError(f"option {option!r} takes no value")
            return []
        taken = [self._value(option, inline)]
        if count == "two":
            taken.append(self._value(option, inline=False))
        while count == "several" and not inline and self.words and not self.words[0].startswith("-"):
            taken.append(self.words.popleft())
        return taken

    def _refuse_undashed(self, word: str) -> None:
        """Raise `UserError` for an option without its two dashes; a file may have any name."""
        option = word.lstrip(_DASHES)
        name = option.partition("=")[0].replace("-", "_")
        if "=" not in word and (word in packaged_recipes() or os.path.exists(word)):  # noqa: PTH110 (Path's may raise)
            return
        if name in self.names or name in self.command.short or (self.command.openrlhf and name in _flags()):
            raise UserError(f"{word!r}: an option begins with two dashes: --{option}")

    def _unknown(self, option: str) -> str:
        """Say what is wrong with an option that this command does not have, and name the one that is meant."""
        name = option.lstrip("-").replace("-", "_")
        if name == "output" and self.command.words == "folder":
            return f"observe-r1 {self.command.name} takes no '--output': name the folder alone"
        siblings = [each for each in COMMANDS.values() if each.settings == self.command.settings]
        if name in {*self.everything, *(short for each in siblings for short in (*each.short, "source"))}:
            return f"observe-r1 {self.command.name} takes no {option!r}; --help lists its options"
        others = [*self.command.short, *(_flags() if self.command.openrlhf else ()), "config"]
        return f"unknown option {option!r}{_meant(name, self.names, others)}"


def _recipe(reader: _Reader) -> None:
    for word in reader.bare:
        reader.take_recipe(word)


def _file(reader: _Reader) -> None:
    _take(reader, "data.path", reader.bare)


def _model(reader: _Reader) -> None:
    """Take a recipe if there is one, then the model, then the questions."""
    for word in [word for word in reader.bare if word.endswith((".yaml", ".yml")) or word in packaged_recipes()]:
        reader.bare.remove(word)
        reader.take_recipe(word)
    model, data = reader.bare[:1], reader.bare[1:]
    if "data.path" in reader.names and model and os.path.isfile(model[0]):  # noqa: PTH113 (Path's may raise)
        name = f"observe-r1 {reader.command.name}"
        raise UserError(
            f"{model[0]!r} is a file, and the model comes first: `{name} {(data or ['MODEL'])[0]} {model[0]}`"
        )
    if data and "data.path" not in reader.names:
        raise UserError(
            f"unexpected {data[0]!r}: observe-r1 {reader.command.name} takes one model; --help lists options"
        )
    _take(reader, "model.path", model)
    _take(reader, "data.path", data)


def _run(reader: _Reader) -> None:
    _in_turn(reader, "the folder of one run")


def _push(reader: _Reader) -> None:
    _in_turn(reader, "a ladder's folder and a name on the Hub")


def _in_turn(reader: _Reader, what: str) -> None:
    """Take one word for each of the settings that the command's words give."""
    settings = _BARE[reader.command.words]
    if len(reader.bare) > len(settings):
        word = reader.bare[len(settings)]
        raise UserError(f"unexpected {word!r}: observe-r1 {reader.command.name} takes {what}")
    for setting, word in zip(settings, reader.bare, strict=False):
        _take(reader, setting, [word])


def _take(reader: _Reader, setting: str, words: Sequence[str]) -> None:
    """Let `words`, if there are any, be the value of a setting that no option has given another."""
    word = ",".join(words)
    if words and (other := reader.given.options.setdefault(setting, word)) != word:
        raise UserError(f"{word} and --{setting} {other} are two values for {setting}: give one")


def _reported(reader: _Reader) -> None:
    _folders(reader, "report.folders")


def _compared(reader: _Reader) -> None:
    _folders(reader, "compare.runs")


def _folders(reader: _Reader, setting: str) -> None:
    if reader.bare and setting in reader.given.options:
        raise UserError(f"{reader.bare[0]!r} is a folder in addition to --{setting}: give all in one way")
    if reader.bare:
        reader.given.options[setting] = json.dumps(reader.bare)  # names may have commas in them


def _ladder(reader: _Reader) -> None:
    """Tell a ladder's folder, sources and a recipe apart. A folder brings its settings along; options override them."""
    command, given = reader.command, reader.given
    recipes = [word for word in reader.bare if word.endswith((".yaml", ".yml")) or word in packaged_recipes()]
    places = [word for word in reader.bare if word not in recipes]
    folder = Path(*places[:1])
    if len(places) == 1 and "run.output" not in given.options and os.path.isfile(folder / _RECORDED):  # noqa: PTH113 (Path's may raise)
        begun = command.name == "ladder refresh" and "model.path" not in given.options
        reader.take_recipe(str(_begun_refresh(folder) if begun else folder / _RECORDED))
        given.options["run.output"] = places[0]
    elif command.words == "sources":
        if places and "data.sources" in given.options:
            raise UserError(f"{places[0]!r} is a source in addition to --data.sources: give all sources in one way")
        given.sources = tuple(places)
    elif "run.output" in given.options:
        raise UserError(f"observe-r1 {command.name} takes no '--output': name the folder alone")
    else:
        which = f"got {len(places)} words" if len(places) != 1 else f"there is no {_RECORDED} in {places[0]!r}"
        meant = beside(folder, lambda path: (path / _RECORDED).is_file())
        raise UserError(f"observe-r1 {command.name} needs the folder of a ladder: {which}{meant}")
    for word in recipes:
        reader.take_recipe(word)


def _begun_refresh(folder: Path) -> Path:
    """Return the settings of the refresh that was begun in `folder`. Raises: UserError: there is none."""
    from observe_r1.cli.start import heavy_imports

    with heavy_imports():
        from observe_r1.ladder.refreshing import unfinished

    if recorded := unfinished(folder):
        return recorded
    raise UserError("observe-r1 ladder refresh needs --model: the model that measures the ladder again")


def _flags() -> Mapping[str, "Flag"]:
    from observe_r1.cli.openrlhf.flags import FLAGS  # only for a command line that has some

    return FLAGS


def _meant(name: str, settings: Collection[str], others: Collection[str]) -> str:
    """Name the option that is meant; a setting is found by its last part too: `--optimizer.lr` for `--lr`."""
    last: dict[str, list[str]] = {}
    for setting in settings:
        last.setdefault(setting.rpartition(".")[2], []).append(setting)
    elsewhere = [setting for setting in [_ELSEWHERE.get(name)] if setting in settings]
    meant = last.get(name) or elsewhere or closest(name, [*settings, *others])
    meant = meant or [setting for part in closest(name, last) for setting in last[part]]
    meant = meant or [setting for setting in settings if setting.startswith(f"{name}.")]  # a section: --model.path
    return did_you_mean([f"--{option}" for option in meant]) or "; --help lists them all"
