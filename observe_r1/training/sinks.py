"""Where metrics go: `metrics.jsonl` always, TensorBoard and Weights & Biases where asked."""

import os
from pathlib import Path
from typing import Protocol

import yaml

from observe_r1.config import RunSettings
from observe_r1.errors import UserError
from observe_r1.files import json_line


class Sink(Protocol):
    """Takes the metrics of one step at a time; names look like `reward/mean`."""

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Record `metrics` under `step`, 0 for the starting model's."""

    def close(self) -> None:
        """Flush and let go; nothing is written afterwards."""


def open_sinks(folder: Path, settings: RunSettings) -> list[Sink]:
    """Return the sinks that `settings` ask for, writing into the run folder.

    Errors: `UserError` where Weights & Biases is asked for and cannot be used.
    """
    sinks: list[Sink] = []
    if settings.wandb is not None:  # the only one that the user can have to mend, so before files are opened
        sinks.append(WeightsAndBiases(folder, settings.wandb))
    if settings.tensorboard:
        sinks.append(TensorBoard(folder / "tensorboard"))
    return [JsonLines(folder / "metrics.jsonl"), *sinks]


class JsonLines:
    """One JSON object a step, on disk before the next step begins; NaN and infinities are null."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="ascii")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line."""
        try:
            self._file.write(json_line({"step": step, **metrics}))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self._file.name!r}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """TensorBoard events, one scalar a metric."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Add one scalar a metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run with the run folder's settings as its configuration."""

    def __init__(self, folder: Path, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                f"run.wandb = {project!r}: wandb is not installed; pip install 'observe-r1[wandb]'"
            ) from error
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        try:
            self._run = wandb.init(project=project, dir=str(folder), name=folder.name, config=config)
        except wandb.errors.Error as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"run.wandb = {project!r}: {reason} (`wandb login` signs in, WANDB_MODE=offline does without)"
            ) from error

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics."""
        self._run.log(metrics, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
