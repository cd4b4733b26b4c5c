"""Training, fine-tuning and ladders from Python: each function does what the command of its name does.

They show the same view on standard error, write the same folders, and print the same last lines.
"""

import json
from collections.abc import Callable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

from observe_r1.cli.evaluate import run as print_evaluation
from observe_r1.cli.ladder import build
from observe_r1.cli.recipe import default_settings, flatten
from observe_r1.cli.recipe import read_recipe as read_settings
from observe_r1.cli.start import check_needs
from observe_r1.config import EvaluateSettings, LadderSettings, Section, SFTSettings, TrainSettings, nest, validate
from observe_r1.errors import UserError
from observe_r1.evaluation.figures import SUMMARY
from observe_r1.run.progress import Progress
from observe_r1.run.sft import fine_tune_model
from observe_r1.run.train import train_model

Settings = TypeVar("Settings", bound=Section)


def read_recipe(
    recipe: str | PathLike[str],
    options: Mapping[str, Any] | None = None,
    kind: type[Settings] = TrainSettings,  # type: ignore[assignment]
) -> Settings:
    """Read a recipe and lay options over it, as `observe-r1 train RECIPE --name value …` does.

    Examples:
        >>> settings = read_recipe("observe_r1", {"model.path": "tiny", "data.path": "questions.jsonl"})
        >>> settings.objective.bonus
        0.2

    Args:
        recipe: The path of a YAML file, or the name of a packaged recipe, such as `observe_r1`.
        options: Settings by dotted name, over those of the recipe.
        kind: Which settings: `TrainSettings`, `SFTSettings` or `LadderSettings`.

    Raises:
        UserError: A setting is unknown, missing or out of bounds, or the recipe cannot be read.
    """
    for name in options or {}:
        if "." not in name:
            raise UserError(f"options: {name!r}: name a setting with its section, as in 'model.path'")
    word = fspath(recipe)
    settings = default_settings(kind) | read_settings(word, kind)
    settings |= flatten(kind, nest(dict(options or {})), "options")
    return validate(kind, nest(settings), "options", together=f"{word} and options")


def train(settings: TrainSettings) -> Path:
    """Train by reinforcement learning, as `observe-r1 train` does.

    Returns:
        The run folder; its `model/` is an ordinary Hugging Face checkpoint.

    Raises:
        UserError: A setting, a file or the disk is at fault; the message says what to do.
        KeyboardInterrupt: Ctrl-C ended the run early. A checkpoint and the model were saved first;
            `run.resume = True` continues.
    """
    return _run("train", train_model, TrainSettings, settings)


def sft(settings: SFTSettings) -> Path:
    """Warm-start a model on demonstrations, as `observe-r1 sft` does; result and errors as `train`."""
    return _run("sft", fine_tune_model, SFTSettings, settings)


def build_ladder(settings: LadderSettings) -> Path:
    """Order questions from easy to hard for a model, as `observe-r1 ladder build` does.

    Returns:
        The ladder's folder: `data.path` of a training run.

    Raises:
        UserError: A setting, a source or the disk is at fault; the message says what to do.
        KeyboardInterrupt: Ctrl-C ended the build early. The same call resumes it.
    """
    return _run("build_ladder", build, LadderSettings, settings)


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Answer held-out questions with one model or several, as `observe-r1 evaluate` does; errors as `build_ladder`.

    Returns:
        What `summary.json` in its folder holds: see `evaluation.figures.summarize`.
    """
    folder = _run("evaluate", print_evaluation, EvaluateSettings, settings)
    summary: dict[str, Any] = json.loads((folder / SUMMARY).read_bytes())
    return summary


def _run(name: str, function: Callable[[Any, Progress], tuple[int, str]], kind: type[Any], settings: Any) -> Path:
    """Run what a command runs, without its hints for the terminal, and return the folder that it wrote."""
    if not isinstance(settings, kind):
        raise UserError(f"{name} takes {kind.__name__}, got {type(settings).__name__}: read_recipe makes them")
    check_needs(settings)
    with Progress(name.replace("_", " ")) as view:
        code, _ = function(settings, view)
    if code:
        raise KeyboardInterrupt
    return Path(settings.run.output)
