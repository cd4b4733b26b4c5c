"""A run's folder without a run: written by the recorder's own parts, with what a test wants in it."""

import json

from PIL import Image

from observe_r1.config import TrainSettings, validate
from observe_r1.files import json_line
from observe_r1.run.folder import RunFolder

LEVELS = (0.0, 0.25, 0.5, 0.75)
GROUP = 4


def record_run(folder, *, steps=12, prompts=2, texts=(), held_out=True, quality=0.0):
    """Record a run of `steps`, each with `prompts` groups; return its folder.

    The step number S and the group number N ask for question S · prompts + N, whose difficulty rises with it. In each
    group, one response fewer is right the harder the question is, and the first one that is right earns a bonus.

    Args:
        folder: Of the run; questions and images go beside it.
        steps: Steps of the run.
        prompts: Groups of a step.
        texts: Inside questions and responses, one after the other; none for plain words.
        held_out: Whether there are held-out questions, answered before the first and after the last step.
        quality: Added to every reward, to tell runs apart.
    """
    count = steps * prompts
    data = _questions(folder.parent / f"{folder.name}-questions", "train", count, texts)
    asked = _questions(folder.parent / f"{folder.name}-questions", "held-out", 8, texts)
    values = {
        "model": {"path": "base/model"},
        "data": {"path": str(data)},
        "rollout": {"group_size": GROUP},
        "run": {"output": str(folder)},
    }
    values |= {"evaluation": {"path": str(asked)}} if held_out else {}
    settings = validate(TrainSettings, values, "test")
    with RunFolder(folder, settings) as written:
        if held_out:
            written.write_evaluation(0, held_out_rows(0))
            write_metrics(
                written.metrics, 0, {"evaluation/accuracy": 0.25, "evaluation/format": 1.0, "evaluation/length": 20.0}
            )
        for step in range(1, steps + 1):
            rows = [each for n in range(prompts) for each in group_rows((step - 1) * prompts + n, count, step, texts)]
            written.write_rollouts(step, rows)
            last = {"evaluation/accuracy": 0.75} if held_out and step == steps else {}
            write_metrics(written.metrics, step, step_metrics(step, quality) | last)
        if held_out:
            written.write_evaluation(steps, held_out_rows(1))
    return folder


def write_metrics(path, step, metrics):
    with path.open("a", encoding="utf-8") as file:
        file.write(json_line({"step": step, **metrics}))


def step_metrics(step, quality=0.0):
    return {
        **{"reward/mean": 1 + step / 100 + quality, "reward/accuracy": 0.5, "response/well_formed": 1.0},
        **{"response/length": 20.0 + step, "rollout/weight": 1.2, "rollout/groups_used": 0.75},
        **{"policy/sampler_difference": 1e-5 * step, "policy/entropy": 0.1},
        **{"time/sampling": 1.0, "time/scoring": 0.1, "time/updating": 0.5, "time/step": 2.0},
    }


def group_rows(number, count, step, texts=()):
    """The rows of one group, as `run.recorder.rollout_rows` makes them."""
    right = GROUP - LEVELS.index(_difficulty(number, count))
    said = texts[number % len(texts)] if texts else f"shapes {number}"
    return [
        {
            "id": f"train-{number}",
            "response": response,
            "text": f"<observe> {said} </observe> <think> counting </think> <answer> {number} </answer>",
            "answer": str(number),
            "tokens": 20 + response,
            "finish": "stop",
            "version": step - 1,
            "last_version": step - 1,
            "correct": response < right,
            "read_as": None,
            "reward": 1.5 if response < right else 0.5,
            "parts": {"accuracy": float(response < right), "format": 0.5},
            "bonus": 0.2 if response == 0 else 0.0,
            "weight": 1.2,
            "advantage": 1.0 if response < right else -1.0,
        }
        for response in range(GROUP)
    ]


def held_out_rows(later):
    """Greedy rows, as `run.held_out.evaluation_rows` makes them: a quarter is right at first, three quarters later."""
    return [
        {
            "id": f"held-out-{number}",
            "response": 0,
            "sampling": "greedy",
            "text": f"<observe> held </observe> <think> so </think> <answer> {number} </answer>",
            "answer": str(number),
            "tokens": 20,
            "finish": "stop",
            "correct": number % 4 <= 2 * later,
            "well_formed": True,
        }
        for number in range(8)
    ]


def _difficulty(number, count):
    return LEVELS[len(LEVELS) * number // count]


def _questions(folder, name, count, texts):
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        image = folder / f"{name}-{number}.png"
        Image.new("RGB", (40, 30), (250, 6 * number % 250, 40)).save(image)
        asked = texts[number % len(texts)].replace("\ud800", "") if texts else f"How many in {number}?"
        parts = [{"type": "image", "image": image.name}, {"type": "text", "text": asked}]
        chat = json.dumps([{"role": "user", "content": parts}])
        row = {"id": f"{name}-{number}", "message": chat, "answer": str(number), "source": name}
        rows.append(row | {"difficulty": _difficulty(number, count)})
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
