"""Trackio: kept on this machine, in the folder TRACKIO_DIR, unless the environment names a Space or a server.

`trackio show` draws it. Its tables show text as text.
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from PIL.Image import Image

from observe_r1.errors import UserError, how_to_install
from observe_r1.run.trackers.tables import Table


def start(asked: str, folder: Path, settings: dict[str, Any], name: str, known: str | None) -> "Trackio":
    """Return the tracker; see `Tracker`."""
    try:
        import trackio
    except ImportError as error:
        raise UserError(f"run.trackio = {asked!r}: trackio is not installed: {how_to_install('trackio')}") from error
    name = known or name
    try:
        with redirect_stdout(sys.stderr):
            run = trackio.init(
                asked,
                name=name,
                config=settings,
                resume="allow" if known else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
    except (ValueError, OSError) as error:
        raise UserError(f"run.trackio = {asked!r}: {str(error).splitlines()[0]}") from error
    return Trackio(run, name, _last_step(run))


def _last_step(run: Any) -> int | None:
    """Return the last step in Trackio's database on this machine; None if it keeps the run elsewhere."""
    from trackio.sqlite_storage import SQLiteStorage
    from trackio.utils import get_storage_mode

    if run.url is not None or get_storage_mode() != "sqlite":  # the latter for TRACKIO_DIR on a network's file system
        return None
    last: int | None = SQLiteStorage.get_last_step(run.project, run.name, run.id)
    return -1 if last is None else last


class Trackio:
    """Metrics and tables of a step are one entry. Trackio sends in the background, and warns if it cannot."""

    def __init__(self, run: Any, name: str, held: int | None) -> None:
        self.id, self.held = name, held
        self._run = run

    def write(self, step: int, metrics: dict[str, float], tables: Sequence[Table]) -> None:
        """Log the metrics and the tables."""
        self._run.log(metrics | {table.name: _table(table) for table in tables}, step=step)

    def close(self) -> None:
        """Finish the run."""
        with redirect_stdout(sys.stderr):
            self._run.finish()


def _table(table: Table) -> Any:
    import trackio

    rows = [[trackio.Image(cell) if isinstance(cell, Image) else cell for cell in row] for row in table.rows]
    return trackio.Table(columns=list(table.columns), data=rows)
