"""Where metrics go: `metrics.jsonl` always, TensorBoard and Weights & Biases where asked."""

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
        self._file = _Pieces(path)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line."""
        self._file.append(json_line({"step": step, **metrics}).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """TensorBoard events, one scalar a metric.

    Written here and at once: TensorBoard's own writer does it in a thread, which a full disk ends with a traceback.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(exist_ok=True)
        self._file = _Pieces(folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}")
        self._append(file_version="brain.Event:2")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Add one scalar a metric."""
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


class _Pieces:
    """A file that grows by whole pieces. Errors: `UserError` where one cannot be written; none of it is left behind."""

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
