"""MLflow: a run in the experiment of that name, on the server or in the database that MLFLOW_TRACKING_URI names.

Without that it is MLflow's own default, `mlflow.db` in the folder where the command runs. Its tables show text as text.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError, how_to_install
from observe_r1.run.trackers import TrackerDownError
from observe_r1.run.trackers.tables import Table

_BATCH = 100
"""Parameters that MLflow takes at a time."""
_LONGEST = 6000
"""Characters of a parameter that it keeps."""


def start(asked: str, folder: Path, settings: dict[str, Any], name: str, known: str | None) -> "MLflow":
    """Return the tracker; see `Tracker`."""
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise UserError(f"run.mlflow = {asked!r}: mlflow is not installed: {how_to_install('mlflow')}") from error
    try:
        client = MlflowClient()
        if known is None:
            known = _new_run(client, asked, name, settings)
        else:
            client.update_run(known, status="RUNNING")
        held = max((metric.step for metric in client.get_run(known).data.to_proto().metrics), default=-1)
    except (MlflowException, ImportError) as error:  # the latter for a database whose driver is missing
        reason = f"{str(error).splitlines()[0]} (MLFLOW_TRACKING_URI says where runs are)"
        raise UserError(f"run.mlflow = {asked!r}: {reason}") from error
    return MLflow(client, known, held)


def _new_run(client: Any, experiment: str, name: str, settings: dict[str, Any]) -> str:
    from mlflow.entities import Param

    found = client.get_experiment_by_name(experiment)
    where = found.experiment_id if found else client.create_experiment(experiment)
    run_id: str = client.create_run(where, run_name=name).info.run_id
    params = [Param(key, str(value)[:_LONGEST]) for key, value in settings.items()]
    for first in range(0, len(params), _BATCH):
        client.log_batch(run_id, params=params[first : first + _BATCH])
    return run_id


class MLflow:
    """Metrics by step; images by step; each table is a file, `groups/step-000020.json`, that MLflow's page shows."""

    def __init__(self, client: Any, run_id: str, held: int) -> None:
        self.id, self.held = run_id, held
        self._client = client

    def write(self, step: int, metrics: dict[str, float], tables: Sequence[Table]) -> None:
        """Log the metrics and the tables."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = int(time.time() * 1000)
        values = [Metric(_key(name), value, now, step) for name, value in metrics.items()]
        try:
            for table in tables:
                path = f"{table.name}/step-{step:06d}.json"
                if path in {each.path for each in self._client.list_artifacts(self.id, table.name)}:
                    continue  # from a try that got no further; MLflow would append to it
                for name, picture in table.pictures:  # a table of MLflow's takes an image in every row or in none
                    self._client.log_image(self.id, picture, key=f"{table.name}/{name}", step=step)
                columns = dict(zip(table.columns, map(list, zip(*table.named, strict=True)), strict=True))
                self._client.log_table(self.id, columns, path)
            self._client.log_batch(self.id, metrics=values)  # last: by these one knows that it holds the step
        except MlflowException as error:
            raise TrackerDownError(str(error).splitlines()[0]) from error

    def close(self) -> None:
        """Say that the run has ended."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_terminated(self.id)
        except MlflowException as error:
            raise TrackerDownError(str(error).splitlines()[0]) from error


def _key(name: str) -> str:
    """Return the name of a metric in the characters that MLflow takes; it reads a name as a path."""
    plain = re.sub(r"[^\w. /-]", "_", name.replace("@", "_at_"), flags=re.ASCII)
    return "/".join(part for part in plain.split("/") if part not in ("", ".", ".."))
