"""How one flag of the original command becomes settings: the rules behind the table in `original_flags`."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from observe_r1.errors import UserError


@dataclass
class Translation:
    """What the flags change, by dotted name, and what the user is to be told."""

    settings: Mapping[str, Any]
    """Settings as they stand without the flags, as far as they are known."""
    options: Mapping[str, Any]
    """Settings given by their own names, which outrank the flags."""
    known: Collection[str]
    """Every setting that the command has."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Values; text is yet to be read as an option's value would be."""
    remarks: dict[str, list[str]] = field(default_factory=dict)
    """What is said, and of which flags: flags that share a reason share its line."""
    flag: str = ""
    """The flag being translated."""

    def __getitem__(self, setting: str) -> Any:
        return {**self.settings, **self.changes, **self.options}.get(setting)

    def __setitem__(self, setting: str, value: Any) -> None:
        if setting not in self.known:
            raise UserError(f"--{self.flag} sets {setting!r}, which this command does not have")
        self.changes[setting] = value

    def say(self, text: str) -> None:
        """Tell the user `text` about the flag."""
        self.remarks.setdefault(text, []).append(f"--{self.flag}")

    @property
    def notes(self) -> list[str]:
        """One line for everything that the user is told."""
        return [f"{', '.join(flags)}: {text}" for text, flags in self.remarks.items()]


@dataclass(frozen=True)
class Flag:
    """One flag of the original."""

    sets: tuple[str, ...]
    """The settings that it sets."""
    remark: str
    """How it sets them, or why it no longer matters; one line."""
    rule: Callable[[Translation, list[str]], None]
    """Called with the translation so far and the words that followed the flag."""
    words: Literal["none", "one", "several"] = "one"
    """How many words follow the flag."""


def to(setting: str) -> Flag:
    """Make a flag whose value is the value of `setting`."""

    def rule(translation: Translation, words: list[str]) -> None:
        translation[setting] = words[0]

    return Flag((setting,), "", rule)


def switch(setting: str, value: bool | str) -> Flag:
    """Make a flag without a value that sets `setting` to `value`."""

    def rule(translation: Translation, words: list[str]) -> None:
        translation[setting] = value

    return Flag((setting,), str(value).lower(), rule, "none")


def gone(reason: str, words: Literal["none", "one"] = "one") -> Flag:
    """Make a flag that changes nothing and says why."""

    def rule(translation: Translation, words: list[str]) -> None:
        translation.say(f"no effect: {reason}")

    return Flag((), f"no effect: {reason}", rule, words)


def refused(reason: str, words: Literal["none", "one"] = "one") -> Flag:
    """Make a flag that is an error and says why."""

    def rule(translation: Translation, words: list[str]) -> None:
        raise UserError(f"--{translation.flag}: {reason}")

    return Flag((), f"refused: {reason}", rule, words)


def save_path(translation: Translation, words: list[str]) -> None:
    """Name the run folder."""
    translation["run.output"] = words[0]
    translation.say(f"this is the run folder; the final model will be in {words[0]}/model")


def save_steps(translation: Translation, words: list[str]) -> None:
    """Set the steps between checkpoints; -1 meant none there, and here some are always written."""
    if words[0] == "-1":
        translation.say(f"no effect: checkpoints are always written, run.save_every = {translation['run.save_every']}")
    else:
        translation["run.save_every"] = words[0]


def shuffle(translation: Translation, words: list[str]) -> None:
    """Keep the file's order: the flag switches shuffling off there."""
    translation["data.order"] = "ladder"
    translation.say("keeps the file's order, as it did in the original (data.order: ladder)")


def tensorboard(translation: Translation, words: list[str]) -> None:
    """Switch TensorBoard on; its folder is ours."""
    translation["run.tensorboard"] = True
    translation.say(f"events go to the run folder's tensorboard/, not to {words[0]}")


def remote_rm_url(translation: Translation, words: list[str]) -> None:
    """Reward with the given files and servers alone."""
    names = words[0].split(",")
    for name in names:
        if not name.endswith(".py") and not name.startswith(("http://", "https://")):
            raise UserError(f"--{translation.flag}: {name!r} is neither a Python file (.py) nor an http(s) address")
    translation["rewards.functions"] = dict.fromkeys(names, 1.0)
    translation.say(
        "they are the whole reward, as in the original; accuracy is still computed, for bonus and weight"
        " (leave the flag out to reward accuracy and format, as the release's own reward file does)"
    )


def estimator(translation: Translation, words: list[str]) -> None:
    """Choose the estimator, and whiten over the rollout where the original does."""
    translation["objective.estimator"] = words[0]
    translation["objective.whiten"] = words[0] in ("rloo", "reinforce_baseline")


def use_bonus(translation: Translation, words: list[str]) -> None:
    """Switch the bonus on at its default there, unless a recipe already has one."""
    translation["objective.bonus"] = translation["objective.bonus"] or 0.2


def bonus_size(translation: Translation, words: list[str]) -> None:
    """Set the bonus where it is on: without `--use_bonus` the size means nothing there."""
    if translation["objective.bonus"]:
        translation["objective.bonus"] = words[0]
    else:
        translation.say("no effect without --use_bonus")


def train_batch_size(translation: Translation, words: list[str]) -> None:
    """Turn a count of responses into one of groups."""
    responses = _integer(translation, words[0])
    group_size = 1
    if "rollout.group_size" in translation.known:
        group_size = _integer(translation, translation["rollout.group_size"])
    if responses < 1 or responses % max(group_size, 1):
        raise UserError(
            f"--train_batch_size {responses} counts responses and must hold whole groups: use a multiple of"
            f" {group_size} (rollout.group_size)"
        )
    translation["optimizer.minibatch"] = responses // max(group_size, 1)


def max_epochs(translation: Translation, words: list[str]) -> None:
    """Passes over the data in supervised fine-tuning, over each rollout in reinforcement learning."""
    if "rollout.prompts" not in translation.known:
        translation["run.epochs"] = words[0]
    elif _integer(translation, words[0]) == 1:
        translation.say("each rollout is learned from once, as always here")
    else:
        raise UserError(
            f"--max_epochs {words[0]} would learn from each rollout several times, which is not supported;"
            " use 1 (passes over the data are run.epochs)"
        )


def gamma(translation: Translation, words: list[str]) -> None:
    """Take no discount."""
    if words[0] not in ("1", "1.0"):
        raise UserError(f"--gamma {words[0]}: rewards are not discounted here; use 1")
    translation.say("rewards are never discounted")


def freeze_prefix(translation: Translation, words: list[str]) -> None:
    """Freeze parameters by the names that they bear now."""
    translation["model.freeze"] = [_present_name(prefix) for prefix in words]


def processor_kwargs(translation: Translation, words: list[str]) -> None:
    """Read the pixel bounds from JSON."""
    try:
        values = json.loads(words[0])
    except json.JSONDecodeError as error:
        raise UserError(
            f"--processor_kwargs {words[0]!r}: broken JSON: {error.msg} (character {error.pos + 1})"
        ) from error
    known = ("min_pixels", "max_pixels")
    if not isinstance(values, dict) or not values.keys() <= set(known):
        raise UserError(f"--processor_kwargs {words[0]!r}: it may hold {' and '.join(known)} only")
    for name, value in values.items():
        translation[f"model.{name}"] = value


def _present_name(prefix: str) -> str:
    """Return a prefix of Qwen-VL's parameter names, as of the original's time, as transformers has it now."""
    if prefix.startswith("visual"):
        return f"model.{prefix}"
    inside = prefix.removeprefix("model")
    if prefix == "model" or (inside.startswith(".") and not inside.startswith((".visual", ".language_model"))):
        return f"model.language_model{inside}"
    return prefix


def _integer(translation: Translation, value: Any) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise UserError(f"--{translation.flag}: {value!r} is not a whole number") from error
