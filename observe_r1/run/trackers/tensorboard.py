"""TensorBoard: events in the run folder's `tensorboard/`, written here at once.

TensorBoard's own writer uses a thread, which ends with a traceback when the disk is full. Its text plugin renders
Markdown, and loads images from any address in it: whatever could be markup is written as an HTML entity.
"""

import os
import re
import socket
import time
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from observe_r1.run.trackers import AppendOnly
from observe_r1.run.trackers.tables import Table, png


def start(asked: bool, folder: Path, settings: dict[str, Any], name: str, known: str | None) -> "TensorBoard":
    """Return the tracker; see `Tracker`."""
    events = folder / "tensorboard"
    tracker = TensorBoard(events, _last_step(events))
    if known is None:
        tracker.write_settings(settings)
    return tracker


def _last_step(folder: Path) -> int:
    """Return the last step with scalars in the events of a folder; -1 for none."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    events = (
        event for path in folder.glob("events.out.tfevents.*") for event in LegacyEventFileLoader(str(path)).Load()
    )
    steps = (e.step for e in events if any(v.WhichOneof("value") == "simple_value" for v in e.summary.value))
    return max(steps, default=-1)


class TensorBoard:
    """One scalar per metric; tables as text, and the images in them each under a tag of its own."""

    def __init__(self, folder: Path, held: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self.id, self.held = "", held
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(exist_ok=True)
        self._file = AppendOnly(folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}")
        self._append(file_version="brain.Event:2")

    def write(self, step: int, metrics: dict[str, float], tables: Sequence[Table]) -> None:
        """Add one scalar per metric, and the tables, all in one record."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        for table in tables:
            for name, picture in table.pictures:
                image = self._summary.Image(
                    height=picture.height, width=picture.width, colorspace=3, encoded_image_string=png(picture)
                )
                values.append(self._summary.Value(tag=f"{table.name}/{name}", image=image))
            values.append(self._text(table.name, markdown(table.columns, table.named)))
        self._append(step=step, summary=self._summary(value=values))

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Add the run's settings, as a table."""
        rows = [(key, str(value)) for key, value in settings.items()]
        self._append(
            step=0, summary=self._summary(value=[self._text("settings", markdown(("setting", "value"), rows))])
        )

    def _text(self, tag: str, text: str) -> Any:
        """Return a summary's value that shows text in Markdown."""
        from tensorboard.compat.proto import tensor_pb2, tensor_shape_pb2, types_pb2

        shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[text.encode()], tensor_shape=shape)
        metadata = {"plugin_data": {"plugin_name": "text"}}
        return self._summary.Value(tag=f"{tag}/text_summary", tensor=tensor, metadata=metadata)

    def close(self) -> None:
        """Close the event file."""
        self._file.close()

    def _append(self, **event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = BytesIO()
        RecordWriter(record).write(self._event(wall_time=time.time(), **event).SerializeToString())
        self._file.append(record.getvalue())


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown, in which every cell is shown as the text that it is."""
    lines = [columns, ["---"] * len(columns), *([_literal(_plain(cell)) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _plain(cell: object) -> str:
    return "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _literal(text: str) -> str:
    """Return `text` with everything that Markdown or HTML might act on as an entity, and line breaks as `<br>`."""
    return re.sub(r"[^\w ,;?/%\n]|_", lambda found: f"&#{ord(found[0])};", text).replace("\n", "<br>")
