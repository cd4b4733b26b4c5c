"""A folder as `measure` leaves it, and its arrangement."""

import json
import random

import pytest
import yaml
from PIL import Image

from observe_r1.config import LadderSettings
from observe_r1.config.verbs import dump_settings
from observe_r1.ladder.arranging import arrange
from observe_r1.ladder.journal import Journal
from observe_r1.ladder.stage import Watch

TRIES = 4


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def built(tmp_path):
    """A folder as `measure` leaves it: 60 questions of all levels, 4 responses each, complexities 10 to 309."""
    folder, rng = tmp_path / "ladder", random.Random(0)
    folder.mkdir()
    Image.new("RGB", (30, 30), "red").save(tmp_path / "outside.png")
    questions, measured, responses = [], [], []
    for number in range(60):
        content = [{"type": "image", "image": str(tmp_path / "outside.png")}, {"type": "text", "text": f"{number}?"}]
        message = json.dumps([{"role": "user", "content": content}])
        questions.append({"id": f"q{number}", "source": "abc"[number % 3], "message": message, "answer": "1"})
        correct = rng.choice([0, 0, 1, 2, 3, 3, 4])
        given = [
            {
                "id": f"q{number}",
                "number": i,
                "text": "<answer>1</answer>" if i < correct else f"<answer>{rng.choice([2, 3])}</answer>",
                "tokens": rng.randrange(10, 310),
                "correct": i < correct,
                "well_formed": i != 3,
                "finish": "stop",
            }
            for i in range(TRIES)
        ]
        responses += given
        right = [r["tokens"] for r in given if r["correct"]]
        measured.append(
            {
                "id": f"q{number}",
                "tries": TRIES,
                "correct": correct,
                "difficulty": 1 - correct / TRIES,
                "complexity": sum(r["tokens"] for r in given) / TRIES,
                "complexity_correct": sum(right) / len(right) if right else None,
                "well_formed": 0.75,
            }
        )
    write(folder / "screened.jsonl", questions)
    with Journal(folder, "measure", ["measured.jsonl", "responses.jsonl", "dropped.jsonl"]) as journal:
        journal.append("measured.jsonl", measured)
        journal.append("responses.jsonl", responses)
        journal.append("dropped.jsonl", [{"id": "early", "source": "a", "stage": "answer", "reason": "free text"}])
        journal.commit(60, complete=True)
    (folder / "ladder.yaml").write_text(dump_settings(LadderSettings()))
    return folder


def settings(**values):
    return LadderSettings.model_validate({"arrange": {"min_complexity": 0} | values})


def run(folder, notes=None, **values):
    arrange(folder, settings(**values), Watch(note=(notes if notes is not None else []).append))
    return read(folder / "ladder.jsonl")


def unsolved_id(folder):
    return next(row["id"] for row in read(folder / "measured.jsonl") if row["correct"] == 0)


def review(folder, **decisions):
    entries = [
        {"id": name, "answer": answer, "action": action, "note": ""} for name, (action, answer) in decisions.items()
    ]
    (folder / "review.yaml").write_text(yaml.safe_dump(entries))
