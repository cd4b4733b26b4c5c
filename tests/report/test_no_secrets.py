"""What is made for others to see has no password and no path of this machine."""

import pytest
import yaml
from recorded_run import record_run

from observe_r1.cli.main import main
from observe_r1.config import RunSettings
from observe_r1.report.model_card import write_model_card
from observe_r1.run.trackers import Trackers

SECRET = "hunter2"


@pytest.fixture
def runs(tmp_path):
    """Two runs whose rewards are a server with a password, and a file in somebody's home."""
    folders = [record_run(tmp_path / name, steps=2, quality=float(name == "b")) for name in ("a", "b")]
    for folder in folders:
        config = folder / "config.yaml"
        settings = yaml.safe_load(config.read_text())
        settings["rewards"]["functions"] = {
            f"http://{folder.name}:{SECRET}@host{folder.name}/score": 1.0,
            "/home/somebody/my_reward.py": 0.5,
        }
        config.write_text(yaml.safe_dump(settings))
    return folders


def test_pages_comparisons_and_cards(runs, tmp_path, capsys):
    assert main(["report", str(runs[0]), "--to", str(tmp_path / "report.html")]) == 0
    assert main(["compare", *map(str, runs), "--to", str(tmp_path / "compare.html")]) == 0
    assert main(["compare", *map(str, runs), "--json"]) == 0
    write_model_card(tmp_path, runs[0], runs[0] / "model", name="m", adapter=False, evaluation=None)
    shown = [(tmp_path / name).read_text() for name in ("report.html", "compare.html", "README.md")]
    shown.append(capsys.readouterr().out)
    assert [SECRET in text for text in shown] == [False] * 4
    assert ["hosta/score" in text for text in shown] == [True] * 4
    assert "my_reward.py" in shown[2] and "somebody" not in shown[2]


def test_trackers(runs):
    Trackers(runs[0], RunSettings(tensorboard=True), pytest.fail).close()
    (events,) = (runs[0] / "tensorboard").iterdir()
    assert b"hosta/score" in events.read_bytes() and SECRET.encode() not in events.read_bytes()
