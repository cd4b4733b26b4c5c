"""Where metrics go: always to `metrics.jsonl`; to TensorBoard and Weights & Biases where the settings ask for them."""

import os
import socket
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import yaml

from observe_r1.config import RunSettings
from observe_r1.errors import UserError, how_to_install
from observe_r1.files import json_line


class Tracker(Protocol):
    """Takes the metrics of one step at a time."""

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of a step.

        Args:
            step: Steps done; 0 for the starting model's.
            metrics: By names such as `reward/mean`.

        Raises:
            UserError: They cannot be written.
        """

    def close(self) -> None:
        """Flush and release what it holds; nothing is written afterwards."""


def open_trackers(folder: Path, settings: RunSettings) -> list[Tracker]:
    """Return the trackers that `settings` ask for.

    Args:
        folder: The run folder, with its `config.yaml`.
        settings: Of the run.

    Raises:
        UserError: Weights & Biases is asked for and cannot be used.
    """
    trackers: list[Tracker] = []
    if settings.wandb is not None:  # first, because it alone can fail for a reason that the user has to mend
        trackers.append(WeightsAndBiases(folder, settings.wandb))
    if settings.tensorboard:
        trackers.append(TensorBoard(folder / "tensorboard"))
    return [JsonLines(folder / "metrics.jsonl"), *trackers]


class JsonLines:
    """One JSON object per step, on disk before the next step begins; NaN and infinities become null."""

    def __init__(self, path: Path) -> None:
        self._file = _AppendOnly(path)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line."""
        self._file.append(json_line({"step": step, **metrics}).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """TensorBoard events, one scalar per metric.

    Written here, at once: TensorBoard's own writer uses a thread, which ends with a traceback when the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(exist_ok=True)
        self._file = _AppendOnly(folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}")
        self._append(file_version="brain.Event:2")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Add one scalar per metric."""
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._append(step=step, summary=self._summary(value=scalars))

    def close(self) -> None:
        """Close the event file."""
        self._file.close()

    def _append(self, **event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = BytesIO()
        RecordWriter(record).write(self._event(wall_time=time.time(), **event).SerializeToString())
        self._file.append(record.getvalue())


class WeightsAndBiases:
    """A Weights & Biases run with the run folder's settings as its configuration."""

    def __init__(self, folder: Path, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"run.wandb = {project!r}: wandb is not installed: {how_to_install('wandb')}") from error
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


class _AppendOnly:
    """A file to which whole pieces are appended, each on disk before the next; of one that fails nothing remains."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def append(self, piece: bytes) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(piece)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(size)
            raise UserError(f"cannot write {self._file.name!r}: {error.strerror}") from error

    def close(self) -> None:
        self._file.close()
