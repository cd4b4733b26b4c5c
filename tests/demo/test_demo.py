"""The demo, small: everything it promises to write, and what it refuses."""

import json
import re
import signal
import subprocess
import sys

import pytest
from PIL import Image

from observe_r1.cli.main import main
from observe_r1.demo.steps import Demo
from observe_r1.errors import UserError
from observe_r1.run.progress import Progress


def run_stopped_in(demo, part, step, monkeypatch):
    """Run `demo`, and press Ctrl-C once it has made `step` in a part of it."""
    update = Progress.update

    def interrupt(self, number, metrics):
        update(self, number, metrics)
        if self._status.label.endswith(f": {part}") and number == step:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "update", interrupt)
        return demo.run()


def test_demo_writes_what_it_promises_however_often_it_is_stopped(tmp_path, capsys, monkeypatch):
    options = ("--run.steps", "40", "--optimizer.lr", "3e-3")
    folder = tmp_path / "demo"

    def demo():
        return Demo(folder, 0, 1, demonstrations=200, questions=60, held_out=30, warm_start_options=options)

    for part, step in (("warm start", 3), ("reinforcement learning", 1)):
        assert run_stopped_in(demo(), part, step, monkeypatch) == 130
        assert f"metrics in {folder}" in (said := capsys.readouterr().out) and "removing" not in said
        assert "; the same command continues" in said and "--run.resume" not in said
    learned = (folder / "ladder" / "measured.jsonl").stat().st_mtime_ns
    assert demo().run() == 0
    assert (folder / "ladder" / "measured.jsonl").stat().st_mtime_ns == learned
    printed, log = capsys.readouterr()
    assert f"resuming the demo in {folder}; complete: data, warm start, ladder\n" in printed
    assert re.findall("demo ([0-9]/[0-9]: [a-z ]+):", log) == [
        *("4/5: reinforcement learning", "4/5: reinforcement learning", "5/5: report"),
    ]
    steps = [json.loads(line)["step"] for line in (folder / "warm" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41)) and [path.name for path in folder.glob(".lock")] == []

    summary = json.loads((folder / "summary.json").read_text())
    assert printed.endswith(f"the report is in {folder / 'report.html'}: any browser opens it\n")
    report = (folder / "report.html").read_text()
    assert "by the number of objects in the image" in report and "The ladder being climbed" in report
    assert f"{summary['after']['accuracy']:.1%}</b>held-out accuracy" in report and len(report) < 5_000_000
    assert set(summary) >= {"before", "after", "by_difficulty", "seconds"}
    assert summary["before"]["format"] > 0.2 and 0 <= summary["after"]["accuracy"] <= 1
    rows = [json.loads(line) for line in (folder / "held_out" / "held_out.jsonl").read_text().splitlines()]
    for level in summary["by_difficulty"]:
        assert level["questions"] == sum(row["level"] == level["objects"] for row in rows)
    weighted = sum(level["after"] * level["questions"] for level in summary["by_difficulty"]) / 30
    assert weighted == pytest.approx(summary["after"]["accuracy"])
    assert {"data", "warm start", "reinforcement learning", "total"} <= set(summary["seconds"])

    with Image.open(folder / "demo.png") as figure:
        assert figure.width > 1000 and len(figure.convert("RGB").getcolors(1 << 24)) > 50
    assert printed.count("held_out/images/") == 3 and "Held-out accuracy by number of objects" in printed
    assert f"wrote {folder / 'summary.json'}" in printed

    ladder = [json.loads(line) for line in (folder / "ladder" / "ladder.jsonl").read_text().splitlines()]
    assert all(0 < row["difficulty"] < 1 for row in ladder)
    trained = {json.loads(line)["id"] for path in (folder / "rl" / "rollouts").iterdir() for line in path.open()}
    assert trained <= {row["id"] for row in ladder} and (folder / "ladder" / "ladder.html").exists()

    (folder / "notes.txt").write_text("mine")
    again = Demo(folder, 1, 1, demonstrations=40, questions=16, held_out=10, warm_start_options=("--run.steps", "2"))
    with pytest.raises(UserError, match=r"less than one rollout|no question is left"):
        again.run()  # an earlier demo's folder is its own; so little has not taught it a single answer
    assert f"removing the earlier demo in {folder}, made with other settings" in capsys.readouterr().out
    assert not (folder / "summary.json").exists() and (folder / "notes.txt").read_text() == "mine"


def test_a_demo_keeps_others_out_of_its_folder_while_it_runs(tmp_path, capsys):
    (tmp_path / ".observe-r1-demo").write_text("{}")
    (tmp_path / "warm").mkdir()
    script = (
        "import sys; from pathlib import Path; from observe_r1.files import lock_folder\n"
        "lock_folder(Path(sys.argv[1])); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert main(["demo", "--output", str(tmp_path)]) == 2
        other.stdin.close()
    out, error = capsys.readouterr()
    assert f"process {other.pid} is writing there" in error and error.count("error:") == 1 and "removing" not in out
    assert (tmp_path / "warm").is_dir()


def test_demo_refuses_before_it_writes(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for name in ("file", "full"):
        with pytest.raises(UserError, match="neither empty nor an earlier demo's folder"):
            Demo(tmp_path / name).run()
    assert main(["demo", "--output", str(tmp_path / "new"), "--threads", "0"]) == 2
    assert main(["demo", "--output", str(tmp_path / "new"), "--seed", "-1"]) == 2
    assert capsys.readouterr().err.count("observe-r1: error: ") == 2
    assert not (tmp_path / "new").exists()
