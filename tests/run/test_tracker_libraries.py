"""What each tracker holds of a run, read back by the library itself or, where it has no reader, by one of our own."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

from PIL import Image
from tensorboard.plugin_util import markdown_to_safe_html
from tracked import METRICS, SHOWN, mlflow, opened, tables, tensorboard, wandb

from observe_r1.cli.main import main


def test_tensorboard_shows_hostile_text_as_text(folder):
    trackers = opened(folder, tensorboard=True)
    for step in (1, 2):
        trackers.write(step, {name: value * step for name, value in METRICS.items()}, tables(), whole=True)
    trackers.close()
    steps, found, images = tensorboard(folder)
    assert steps == {step: {name: value * step for name, value in METRICS.items()} for step in (1, 2)}
    assert images == {"groups/image 1": [(40, 30)] * 2, "evaluation/image 1": [(40, 30)] * 2}
    assert "optimizer.betas" in html.unescape(found[0]["settings"])
    for name in ("groups", "evaluation"):
        shown = markdown_to_safe_html(found[2][name])
        assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td|br)\b)", shown), shown
        (cell,) = (c for c in re.findall(r"<td>(.*?)</td>", shown, re.DOTALL) if "script" in c)
        assert html.unescape(re.sub(r"<br ?/?>", "\n", cell)) == SHOWN
    row = html.unescape(re.findall(r"<tr>\n(.*?)</tr>", markdown_to_safe_html(found[1]["groups"]), re.DOTALL)[1])
    cells = re.findall(r"<td>(.*?)</td>", row, re.DOTALL)
    assert cells[:5] == ["1", "q1", "image 1", "How many?", "7"]
    assert cells[6:] == ["True", "1", "0.5", "0.25", "1.5", "0.75", "3"]


def test_wandb_goes_on_in_the_same_run_without_a_step_twice(folder):
    trackers = opened(folder, wandb="shapes")
    trackers.write(0, {"evaluation/accuracy": 0.25}, [], whole=True)
    trackers.write(1, METRICS, tables(), whole=True)
    trackers.write(2, METRICS, [], whole=True)
    trackers.close()
    resumed = opened(folder, wandb="shapes")  # from a checkpoint of step 1
    for step in (2, 3):
        resumed.write(step, METRICS, [], whole=True)
    resumed.close()
    steps, shown, config, ids, images = wandb(folder)
    assert steps == {0: {"evaluation/accuracy": 0.25}, 1: METRICS, 2: METRICS, 3: METRICS}
    assert config["optimizer.lr"] == 1.0
    assert ids == {(json.loads((folder / "trackers.json").read_text())["wandb: shapes"]["id"], "shapes")}
    groups = shown[1]["groups"]
    rows = [dict(zip(groups["columns"], row, strict=True)) for row in groups["data"]]
    assert rows[0]["response"] == SHOWN and rows[0]["advantage"] == 0.75 and rows[1]["advantage"] == -0.75
    assert (rows[0]["accuracy"], rows[0]["format"], rows[0]["bonus"], rows[0]["correct"]) == (1.0, 0.5, 0.25, True)
    assert [row["image"] for row in rows] == ["Image", None]
    assert images == {"evaluation": (40, 30), "groups": (40, 30)}
    assert shown[1]["evaluation"]["data"][0][4] == SHOWN


def test_no_step_is_twice_in_wandb_when_its_files_have_been_moved_away(folder):
    """`wandb sync --clean` removes what it has uploaded; the files that remain do not tell of it."""
    for step in (1, 2):
        trackers = opened(folder, wandb="shapes")
        trackers.write(step, METRICS, [], whole=True)
        trackers.close()
        sys.modules["wandb"].teardown()
        (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
        if step == 1:
            shutil.rmtree(file.parent)
    file.write_bytes(file.read_bytes()[:7])  # as a killed process leaves it
    resumed = opened(folder, wandb="shapes")
    resumed.write(3, METRICS, [], whole=True)
    resumed.close()
    assert sorted(wandb(folder)[0]) == [2, 3]


def test_trackio_goes_on_in_the_same_run_without_a_step_twice(folder, trackio, tmp_path, capsys):
    from trackio.sqlite_storage import SQLiteStorage

    trackers = opened(folder, trackio="shapes")
    trackers.write(0, {"evaluation/accuracy": 0.25}, [], whole=True)
    trackers.write(1, METRICS, tables(), whole=True)
    trackers.write(2, METRICS, [], whole=True)
    trackers.close()
    resumed = opened(folder, trackio="shapes")
    for step in (2, 3):
        resumed.write(step, METRICS, [], whole=True)
    resumed.close()
    assert not capsys.readouterr().out
    (run,) = SQLiteStorage.get_runs("shapes")
    logs = SQLiteStorage.get_logs("shapes", run)
    assert [log["step"] for log in logs] == [0, 1, 2, 3]
    assert [{name: log[name] for name in METRICS} for log in logs[1:]] == [METRICS] * 3
    assert SQLiteStorage.get_run_config("shapes", run)["optimizer.lr"] == 1.0
    rows = logs[1]["groups"]["_value"]
    assert [row["response"] for row in rows] == [SHOWN, "<answer>8</answer>"]
    assert [row["advantage"] for row in rows] == [0.75, -0.75]
    assert Image.open(tmp_path / "trackio" / "media" / rows[0]["image"]["file_path"]).size == (40, 30)
    assert logs[1]["evaluation"]["_value"][0]["well-formed"] is False


def test_mlflow_goes_on_in_the_same_run_without_a_step_twice(folder, tmp_path):
    trackers = opened(folder, mlflow="shapes")
    trackers.write(0, {"evaluation/accuracy": 0.25}, [], whole=True)
    trackers.write(1, METRICS, tables(), whole=True)
    trackers.write(2, METRICS, [], whole=True)
    trackers.close()
    (folder / "config.yaml").write_text("optimizer: {lr: 2.0}\n")  # MLflow refuses to change what it has noted
    resumed = opened(folder, mlflow="shapes")
    for step in (2, 3):
        resumed.write(step, METRICS, [], whole=True)
    resumed.close()
    steps, run, client = mlflow("shapes")
    renamed = {"reward/mean": 0.5, "evaluation/avg_at_8": 1.25, "rewards/http_/x/y": 2.0}
    assert steps == {0: {"evaluation/accuracy": 0.25}, 1: renamed, 2: renamed, 3: renamed}
    assert run.data.params == {"optimizer.lr": "1.0", "optimizer.betas": "[0.5, 0.9]"}
    assert run.info.status == "FINISHED"
    path = client.download_artifacts(run.info.run_id, "groups/step-000001.json")
    table = json.loads(Path(path).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["response"] for row in rows] == [SHOWN, "<answer>8</answer>"]
    assert [row["advantage"] for row in rows] == [0.75, -0.75]
    assert [row["image"] for row in rows] == ["image 1", None]
    images = [each.path for each in client.list_artifacts(run.info.run_id, "images") if each.path.endswith(".png")]
    names = sorted(re.match(r"images/(\w+)[#~]image 1[%+]step[%+]1[%+]", path)[1] for path in images)
    assert names == ["evaluation", "groups"]
    assert Image.open(client.download_artifacts(run.info.run_id, images[0])).size == (40, 30)


KILLED = """
import os, signal, sys
from observe_r1.cli.main import main
from observe_r1.run.trackers.tensorboard import TensorBoard

def write(self, step, metrics, tables, original=TensorBoard.write):
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, step, metrics, tables)

TensorBoard.write = write
main(sys.argv[1:])
"""
"""A run that is killed while the last of its trackers is given step 4, which `trackers.json` has noted already."""


def test_after_a_kill_every_tracker_holds_what_it_would_have_held(world, folder, trackio, tmp_path):
    from trackio.sqlite_storage import SQLiteStorage

    asked = {"wandb": "shapes", "mlflow": "shapes", "trackio": "shapes", "tensorboard": "true"}
    given = list(chain(*((f"--run.{kind}", value) for kind, value in asked.items())))
    model, data = world / "warm" / "model", world / "train" / "train.jsonl"
    given += ["--model.path", str(model), "--data.path", str(data), "--model.device", "cpu", "--run.threads", "1"]
    given += ["--rollout.prompts", "2", "--rollout.group_size", "4", "--optimizer.minibatch", "2"]
    given += ["--rollout.max_new_tokens", "40", "--optimizer.lr", "1e-3"]
    given += ["--run.steps", "5", "--run.save_every", "3", "--run.track_groups", "1"]
    tables = []
    for name in ("whole", "killed"):
        run = tmp_path / name
        command = ["train", *given, "--run.output", str(run)]
        if name == "killed":
            variables = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}
            assert subprocess.run([sys.executable, "-c", KILLED, *command], env=variables).returncode == -9
            state = json.loads((run / "trackers.json").read_text())
            assert state["tensorboard"]["step"] == 4 and sorted(tensorboard(run)[0]) == [1, 2, 3]
            assert 4 not in wandb(run)[0]  # on a quick machine none of them: they were in memory
            command += ["--run.resume", "true"]
        assert main(command) == 0
        state = json.loads((run / "trackers.json").read_text())
        ids = {kind: state[f"{kind}: shapes"]["id"] for kind in ("mlflow", "trackio")}
        logs = SQLiteStorage.get_logs("shapes", ids["trackio"])
        steps = [log["step"] for log in logs]
        assert steps == sorted(set(steps))
        held = {
            "tensorboard": tensorboard(run)[0],
            "wandb": wandb(run)[0],
            "mlflow": mlflow("shapes", ids["mlflow"])[0],
            "trackio": {log["step"]: {k: v for k, v in log.items() if isinstance(v, float | int)} for log in logs},
        }
        tables.append(
            {kind: {step: timeless(values) for step, values in found.items()} for kind, found in held.items()}
        )
    assert all(sorted(found) == [1, 2, 3, 4, 5] for found in tables[0].values())
    assert all("reward/mean" in values for found in tables[0].values() for values in found.values())
    assert tables[1] == tables[0]


def timeless(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith(("time/", "speed/", "memory/"))}
