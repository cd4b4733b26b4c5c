"""Weights & Biases: a run with the run's settings as its configuration. Its tables show text as text."""

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from PIL.Image import Image

from observe_r1.errors import UserError, how_to_install
from observe_r1.run.trackers import TrackerDownError
from observe_r1.run.trackers.tables import Table

_BLOCK = 32 * 1024
_LAST = (1, 4)
"""Kinds of a chunk with which a record ends: the whole of it, and its last part."""


def start(asked: str, folder: Path, settings: dict[str, Any], name: str, known: str | None) -> "WeightsAndBiases":
    """Return the tracker; see `Tracker`."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"run.wandb = {asked!r}: wandb is not installed: {how_to_install('wandb')}") from error
    id_ = known or name.rpartition("-")[2]
    try:
        # Offline, wandb itself does not resume: it writes a second file under the same id, and `wandb sync` joins both.
        run = wandb.init(
            project=asked,
            dir=str(folder),
            id=id_,
            name=folder.name,
            config=settings,
            resume="allow" if known else None,
            allow_val_change=True,
        )
    except (wandb.errors.Error, ValueError) as error:  # the latter for variables of wandb's that make no sense
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"run.wandb = {asked!r}: {reason} (sign in by `wandb login`, or set WANDB_MODE=offline)"
        ) from error
    return WeightsAndBiases(run, id_, _last_step(run, folder))


def _last_step(run: Any, folder: Path) -> int | None:
    """Return the last step that is on the server or in offline files; -1 for none; None if neither can be read.

    An offline file is gone once `wandb sync --clean` has uploaded it.
    """
    files = list(folder.glob(f"wandb/offline-run-*/run-{run.id}.wandb"))
    earlier = [path for path in files if path.parent != Path(run.sync_dir)]
    if run.disabled or (run.offline and not earlier):
        return None
    steps = [_last_row(path) for path in earlier]
    return max(steps if run.offline else [*steps, run.starting_step - 1])


def _last_row(path: Path) -> int:
    """Return the step of the last row in an offline file; -1 for none."""
    from wandb.proto.wandb_internal_pb2 import Record

    step = -1
    for record in map(Record.FromString, _records(path.read_bytes())):
        for item in record.history.item:
            if "_step" in (item.key, *item.nested_key):
                step = max(step, json.loads(item.value_json))
    return step


def _records(log: bytes) -> Iterator[bytes]:
    """Yield the whole records of a log in LevelDB's format, in which wandb keeps a run; it has no reader in Python.

    The log is blocks of 32 KiB, and a block is chunks: checksum, length and kind, then a part of a record. W&B's log
    begins with seven bytes of its own. The last chunk of a process that was killed may be cut off.
    """
    at, record = 7, b""
    while at + 7 <= len(log):
        if (left := -at % _BLOCK) < 7 and left:
            at += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", log, at)
        if len(log) < at + 7 + length or crc32(log[at + 6 : at + 7 + length]) != checksum:
            return
        record += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in _LAST:
            yield record
            record = b""


class WeightsAndBiases:
    """Metrics and tables of a step are one row of the run's history."""

    def __init__(self, run: Any, id_: str, held: int | None) -> None:
        self.id, self.held = id_, held
        self._run = run

    def write(self, step: int, metrics: dict[str, float], tables: Sequence[Table]) -> None:
        """Log the metrics and the tables."""
        import wandb

        shown = {table.name: _table(table) for table in tables}
        try:
            self._run.log(metrics | shown, step=step, commit=True)  # not only once the next step comes
        except wandb.errors.Error as error:
            raise TrackerDownError(str(error).splitlines()[0]) from error

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _table(table: Table) -> Any:
    import wandb

    rows = [[wandb.Image(cell) if isinstance(cell, Image) else cell for cell in row] for row in table.rows]
    return wandb.Table(columns=list(table.columns), data=rows)
