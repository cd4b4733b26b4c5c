"""What a flag of OpenRLHF may be: the value of a setting, a switch, without effect, or refused."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from observe_r1.errors import UserError

Words = Literal["none", "one", "two", "several"]


@dataclass
class Translation:
    """What the flags change, by dotted name, and what the user is told."""

    settings: Mapping[str, Any]
    """Settings as they are without the flags, as far as they are known."""
    options: Mapping[str, Any]
    """Settings given by their own names, which override the flags."""
    known: Collection[str]
    """Every setting of the command."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Values; text is read later, as the value of an option is."""
    remarks: dict[str, list[str]] = field(default_factory=dict)
    """What is said, and about which flags: flags that share a reason share its line."""
    flag: str = ""
    """The flag being translated."""
    sources: dict[str, str] = field(default_factory=dict)
    """The flag that gave a setting its value unchanged."""

    def __getitem__(self, setting: str) -> Any:
        return {**self.settings, **self.changes, **self.options}.get(setting)

    def __setitem__(self, setting: str, value: Any) -> None:
        if setting not in self.known:
            raise UserError(f"--{self.flag} sets {setting!r}, which this command does not have")
        self.changes[setting] = value

    def take(self, setting: str, value: Any) -> None:
        """Give `setting` the flag's value.

        Raises:
            UserError: another name of the flag gave it another value.
        """
        other = self.sources.setdefault(setting, self.flag)
        if other != self.flag and self.changes[setting] != value:
            raise UserError(
                f"--{other} {self.changes[setting]} and --{self.flag} {value} are two values for {setting}: give one"
            )
        self[setting] = value

    def say(self, text: str) -> None:
        """Tell the user `text` about the flag."""
        self.remarks.setdefault(text, []).append(f"--{self.flag}")

    asked: dict[str, tuple[str, int]] = field(default_factory=dict)
    """What flags about GPUs ask for, by what it is: the flag and its number; `gpus.place` makes settings of them."""

    @property
    def notes(self) -> list[str]:
        """What the user is told, one line per remark."""
        return [f"{', '.join(flags)}: {text}" for text, flags in self.remarks.items()]


@dataclass(frozen=True)
class Flag:
    """One flag of OpenRLHF."""

    sets: tuple[str, ...]
    """The settings that it sets."""
    remark: str
    """How it sets them, or why it no longer matters; one line."""
    rule: Callable[[Translation, list[str]], None]
    """Called with the translation so far and the words that follow the flag."""
    words: Words = "one"
    """How many words follow the flag."""


def to(setting: str) -> Flag:
    """Make a flag whose value is the value of `setting`."""

    def rule(translation: Translation, words: list[str]) -> None:
        translation.take(setting, words[0])

    return Flag((setting,), "", rule)


def pair(*settings: str) -> Flag:
    """Make a flag of two values: of one setting that holds two, or of two settings."""

    def rule(translation: Translation, words: list[str]) -> None:
        for setting, value in zip(settings, words if len(settings) > 1 else [words], strict=True):
            translation[setting] = value

    return Flag(settings, "", rule, "two")


def switch(setting: str, value: bool | str) -> Flag:
    """Make a flag without a value that sets `setting` to `value`."""

    def rule(translation: Translation, words: list[str]) -> None:
        translation[setting] = value

    return Flag((setting,), str(value).lower(), rule, "none")


def gone(reason: str, words: Words = "one") -> Flag:
    """Make a flag that changes nothing and says why."""

    def rule(translation: Translation, words: list[str]) -> None:
        translation.say(f"no effect: {reason}")

    return Flag((), f"no effect: {reason}", rule, words)


def refused(reason: str, words: Words = "one") -> Flag:
    """Make a flag that is an error and says why."""

    def rule(translation: Translation, words: list[str]) -> None:
        raise UserError(f"--{translation.flag}: {reason}")

    return Flag((), f"refused: {reason}", rule, words)


def only(value: str, reason: str) -> Flag:
    """Make a flag that has no effect at `value`, one word or two, and is an error at any other."""
    words: Words = "two" if " " in value else "one"

    def same(one: str, other: str) -> bool:
        try:
            return float(one) == float(other)
        except ValueError:
            return one == other

    def rule(translation: Translation, words: list[str]) -> None:
        if not all(map(same, words, value.split())):
            raise UserError(f"--{translation.flag} {' '.join(words)}: {reason}; only {value} is accepted")
        translation.say(f"no effect: {reason}")

    return Flag((), f"refused unless {value}: {reason}", rule, words)


def of_evaluation(setting: str) -> Flag:
    """Make a flag whose value is the value of `setting`, and that means nothing without held-out questions."""

    def rule(translation: Translation, words: list[str]) -> None:
        if "evaluation.path" in translation.known and translation["evaluation.path"] is None:
            translation.say("no effect without --eval_dataset")
        elif words[0] == "-1":
            translation.say(f"no effect: {setting} = {translation[setting]}")
        else:
            translation.take(setting, words[0])

    return Flag((setting,), "-1 leaves the default; no effect without --eval_dataset", rule)


def integer(translation: Translation, value: Any) -> int:
    """Return a value as a whole number.

    Raises:
        UserError: it is none; the message names the flag.
    """
    try:
        return int(value)
    except ValueError as error:
        raise UserError(f"--{translation.flag}: {value!r} is not a whole number") from error
