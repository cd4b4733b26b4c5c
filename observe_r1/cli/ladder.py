"""`observe-r1 ladder`: NeuraLadder, from raw visual questions to a dataset ordered from easy to hard."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import create_model

from observe_r1.cli.help import describe
from observe_r1.cli.needs import check_needs, heavy_imports
from observe_r1.cli.options import BOOLEANS, parse_settings, refuse_undashed, take_value
from observe_r1.cli.original_flags import FLAGS
from observe_r1.cli.recipe import packaged_recipes
from observe_r1.cli.terminal import show, starting
from observe_r1.config import LadderSettings, Section, setting_names
from observe_r1.errors import UserError
from observe_r1.registry import COMMAND_SLIP, nearest
from observe_r1.yaml_text import yaml_line

# From the words after `observe-r1 ladder VERB` to settings: a folder or sources, shorthands, dotted options.
#
# A folder that holds a ladder brings its recorded settings along; options given beside it override them.

_RECORDED = "ladder.yaml"
_SHORT = {"model": "model.path", "output": "run.output", "anew": "run.anew", "skip_bad": "data.skip_bad"}
_SEEDS = {
    "build": ("screen.seed", "rollout.seed", "arrange.seed"),
    "screen": ("screen.seed",),
    "measure": ("rollout.seed",),
    "arrange": ("arrange.seed",),
    "refresh": ("rollout.seed",),
}
"""What `--seed` sets."""
_SECTIONS = {
    "build": ("data", "screen", "model", "rollout", "arrange", "run"),
    "screen": ("data", "screen", "model", "rollout", "run"),
    "measure": ("data", "model", "rollout", "run"),
    "arrange": ("arrange", "run"),
    "review": ("run",),
    "refresh": ("data", "model", "rollout", "run"),
}
"""What each verb has to do with."""


@dataclass
class Words:
    """A command line taken apart."""

    places: list[str]
    """Words that are no options, and values of `--source`: sources, folders, a recipe."""
    options: list[str]
    """With shorthands written out, each `--name=value` or `--name`."""


def ladder_settings(verb: str, argv: Sequence[str]) -> LadderSettings:
    """Return the settings that `argv` asks for; `--help` prints those of the verb and exits.

    Errors: `UserError` as `parse_settings`, for an option of another verb, and without the folder that a verb needs.
    """
    kind = _kind(verb)
    if "-h" in argv or "--help" in argv:
        show(describe(kind, f"ladder {verb}"))
        raise SystemExit(0)
    words = _take_apart(verb, argv, setting_names(kind))
    packaged = packaged_recipes()
    recipes = [place for place in words.places if place.endswith((".yaml", ".yml")) or place in packaged]
    sources = [place for place in words.places if place not in recipes]
    named = any(option.startswith("--run.output=") for option in words.options)
    if not named and len(sources) == 1 and (Path(sources[0]) / _RECORDED).is_file():
        is_named = verb != "refresh" or any(option.startswith("--model.path=") for option in words.options)
        recipes.insert(0, str(Path(sources[0]) / _RECORDED if is_named else _begun_refresh(Path(sources[0]))))
        words.options.append(f"--run.output={sources[0]}")
    elif verb not in ("build", "screen"):
        if named:
            raise UserError(f"observe-r1 ladder {verb} takes no '--output': name the folder alone")
        which = f"there is no {_RECORDED} in {sources[0]!r}" if len(sources) == 1 else f"got {len(sources)} words"
        raise UserError(f"observe-r1 ladder {verb} needs the folder of a ladder: {which}")
    elif sources:
        words.options.append(f"--data.sources={yaml_line(sources)}")
    settings: LadderSettings = parse_settings(LadderSettings, [*recipes, *words.options], verb=f"ladder {verb}")
    return settings


def _begun_refresh(folder: Path) -> Path:
    """Return the settings of the refresh that was begun. Errors: `UserError` where none was."""
    with heavy_imports():
        from observe_r1.ladder.refreshing import unfinished

    if recorded := unfinished(folder):
        return recorded
    raise UserError("observe-r1 ladder refresh needs --model: the model that measures the ladder again")


def _kind(verb: str) -> type[Section]:
    """Return the settings that concern a verb."""
    fields = {name: LadderSettings.model_fields[name] for name in _SECTIONS[verb]}
    sections = {name: (field.annotation, field.default) for name, field in fields.items()}
    kind: type[Section] = create_model("LadderVerb", __base__=Section, **sections)  # type: ignore[call-overload]
    return kind


def _take_apart(verb: str, argv: Sequence[str], names: dict[str, Any]) -> Words:
    """Tell options and their values from the other words."""
    taken, words = Words([], []), deque(argv)
    given: dict[str, tuple[str, str]] = {}
    while words:
        word = words.popleft()
        refuse_undashed(word, {*names, *_SHORT})
        if not word.startswith("-"):
            taken.places.append(word)
            continue
        option, equals, value = word.partition("=")
        if option == "--source" and verb in ("build", "screen"):
            taken.places.append(value if equals else take_value(option, words))
            continue
        name = option.removeprefix("--").replace("-", "_")
        settings = _SEEDS.get(verb, ()) if name == "seed" else (_SHORT.get(name, name),)
        elsewhere = [*setting_names(LadderSettings), *FLAGS]
        if not settings or (settings[0] not in names and settings[0] in elsewhere):
            raise UserError(f"observe-r1 ladder {verb} takes no {option!r}; --help lists what it takes")
        is_switch = settings[0] in names and names[settings[0]].annotation is bool
        follows = words[0] if words and not equals else "--"
        if follows.lower() in BOOLEANS if is_switch else not follows.startswith("--"):
            value, equals = words.popleft(), "="
        taken.options += [f"--{setting}{equals}{value}" for setting in settings]
        other, before = given.setdefault(settings[0], (option, value))
        if other != option and before != value and name != "seed":
            raise UserError(f"{other} {before} and {option} {value} are two values for {settings[0]}: give one")
    return taken


VERBS = {
    "build": "screen, measure and arrange: questions in, a ladder out; stopped, it resumes where it was",
    "screen": "drop questions that cannot be verified, are repeated, are from a benchmark, or are too simple",
    "measure": "sample responses to what was screened: difficulty and complexity",
    "arrange": "order what was measured from easy to hard, mix it, and draw a size and shares",
    "review": "show the questions that no response solved, and write a file to decide about them",
    "refresh": "measure a ladder again with a newer model, and show how its questions moved",
    "sources": "list the public datasets that can be read as they are",
}


def run(argv: list[str]) -> int:
    """Run one of `VERBS`. Returns 0, or 130 after Ctrl-C."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        show(_usage())
        return 0
    verb, words = argv[0], argv[1:]
    if verb not in VERBS:
        raise UserError(
            f"unknown command 'ladder {verb}'{nearest(verb, VERBS, COMMAND_SLIP)}; `observe-r1 ladder` lists them"
        )
    if verb == "sources":
        return _sources(words)

    settings = ladder_settings(verb, words)
    check_needs(settings)
    loading = "the report" if verb in ("arrange", "review") else "torch and transformers"
    with starting(f"ladder {verb}", loading) as view:
        with heavy_imports():  # they wait until the settings are known to be good
            from observe_r1.cli.ladder_run import run_verb

        return run_verb(verb, settings, view)


def _sources(words: list[str]) -> int:
    if words in (["-h"], ["--help"]):
        show("Usage: observe-r1 ladder sources\n\nList the public datasets that `ladder build NAME:PATH` reads.\n")
        return 0
    if words:
        raise UserError(f"unexpected {words[0]!r}: `observe-r1 ladder sources` takes nothing")
    from observe_r1.ladder.sources.stream import describe_sources

    show(describe_sources() + "\n")
    return 0


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return (
        "Usage: observe-r1 ladder COMMAND ...\n\n"
        "NeuraLadder: order raw visual questions from easy to hard for the model that is to learn from them.\n\n"
        f"Commands:\n{verbs}\n\n"
        "  observe-r1 ladder build questions.jsonl geometry3k:hiyouga/geometry3k --model MODEL --output DIR\n"
        "  observe-r1 train --model.path MODEL --data.path DIR\n\n"
        "  observe-r1 ladder COMMAND --help  explains every setting of a command\n"
    )
