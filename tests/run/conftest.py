"""What the tests of trackers share: a run folder from which nothing reaches the user's own files or the network."""

import shutil
import sys

import pytest


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """Return an empty database of MLflow's; to make one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch, database):
    """Return a run folder; what trackers keep elsewhere, and ask of the network, stays in `tmp_path`."""
    run = tmp_path / "shapes"
    run.mkdir()
    (run / "config.yaml").write_text("optimizer: {lr: 1.0, betas: [0.5, 0.9]}\n")
    for name in ("mlflow", "other"):
        shutil.copy(database, tmp_path / f"{name}.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    monkeypatch.chdir(tmp_path)
    yield run
    if sys.modules.get("wandb") is not None:
        sys.modules["wandb"].teardown()  # it would leave a service running, and not read the environment again


@pytest.fixture
def trackio(tmp_path, monkeypatch):
    """Return the library, which otherwise keeps its files under the user's home."""
    import trackio
    from trackio import sqlite_storage, utils
    from trackio.media import media
    from trackio.media import utils as media_utils

    for module in (utils, sqlite_storage, media, media_utils):
        for name in ("TRACKIO_DIR", "MEDIA_DIR"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, tmp_path / "trackio" / ("media" if name == "MEDIA_DIR" else ""))
    return trackio
