"""Weights & Biases: a run with the run's settings as its configuration. Its tables show text as text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from observe_r1.errors import UserError, how_to_install
from observe_r1.run.trackers import TrackerDownError
from observe_r1.run.trackers.tables import Table


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
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"run.wandb = {asked!r}: {reason} (sign in by `wandb login`, or set WANDB_MODE=offline)"
        ) from error
    return WeightsAndBiases(run, id_)


class WeightsAndBiases:
    """Metrics and tables of a step are one row of the run's history."""

    def __init__(self, run: Any, id_: str) -> None:
        self.id = id_
        self._run = run

    def write(self, step: int, metrics: dict[str, float], tables: Sequence[Table]) -> None:
        """Log the metrics and the tables."""
        import wandb

        shown = {table.name: _table(table) for table in tables}
        try:
            self._run.log(metrics | shown, step=step)
        except wandb.errors.Error as error:
            raise TrackerDownError(str(error).splitlines()[0]) from error

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _table(table: Table) -> Any:
    import wandb

    rows = [[wandb.Image(cell) if isinstance(cell, Image) else cell for cell in row] for row in table.rows]
    return wandb.Table(columns=list(table.columns), data=rows)
