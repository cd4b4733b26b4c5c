"""The demo, small: everything it promises to write, and what it refuses."""

import json

import pytest
from PIL import Image

from observe_r1.cli.demo import Demo
from observe_r1.cli.main import main
from observe_r1.errors import UserError


def test_demo_writes_what_it_promises(tmp_path, capsys):
    options = ("--run.steps", "40", "--optimizer.lr", "3e-3")
    folder = tmp_path / "demo"
    demo = Demo(folder, 0, 1, demonstrations=200, questions=60, held_out=30, warm_start_options=options)
    assert demo.run() == 0
    printed = capsys.readouterr().out

    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) >= {"before", "after", "by_difficulty", "seconds"}
    assert summary["before"]["format"] > 0.2 and 0 <= summary["after"]["accuracy"] <= 1
    rows = [json.loads(line) for line in (folder / "held_out" / "held_out.jsonl").read_text().splitlines()]
    for level in summary["by_difficulty"]:
        assert level["questions"] == sum(row["level"] == level["objects"] for row in rows)
    weighted = sum(level["after"] * level["questions"] for level in summary["by_difficulty"]) / 30
    assert weighted == pytest.approx(summary["after"]["accuracy"])
    assert {"data", "warm start", "reinforcement learning", "total"} <= set(summary["seconds"])

    with Image.open(folder / "demo.png") as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(1 << 24)) > 50
    assert printed.count("held_out/images/") == 3 and "Held-out accuracy by number of objects" in printed
    assert f"wrote {folder / 'summary.json'}" in printed

    ladder = [json.loads(line) for line in (folder / "ladder" / "ladder.jsonl").read_text().splitlines()]
    trained = {json.loads(line)["id"] for path in (folder / "rl" / "rollouts").iterdir() for line in path.open()}
    assert trained <= {row["id"] for row in ladder} and (folder / "ladder" / "ladder.html").exists()

    again = Demo(folder, 1, 1, demonstrations=40, questions=16, held_out=10, warm_start_options=("--run.steps", "2"))
    with pytest.raises(UserError, match=r"less than one rollout|no question is left"):
        again.run()  # an earlier demo's folder is its own; so little has not taught it a single answer


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
