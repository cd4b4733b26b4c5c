"""Score hostile texts and write them down: does anything raise, hang, kill a worker for good or fill the memory?

The texts are those of the tests (`tests/hostile.py`). Each group of eight goes through the accuracy and format rewards
and a reward file, then into a rollout file and back.

    python benchmarks/hostile_output.py --strings 100000
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Event, Thread

import psutil
import torch

from observe_r1.config import ObjectiveSettings, RewardSettings, TrainSettings
from observe_r1.records import Completion, Example, Prompt
from observe_r1.rewards import Scorer, Scores
from observe_r1.run.folder import RunFolder
from observe_r1.run.recorder import rollout_rows
from observe_r1.training.prompts import Drawn
from observe_r1.training.sampler import scored_groups

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hostile import GOLDS, after_json, hostile_group

LENGTHS = "def reward_func(queries, prompts, labels): return [len(query) for query in queries]"
TOKEN = torch.zeros(1)
PROMPT = Prompt(ids=TOKEN, token_types=TOKEN)


def question(answer: str) -> Example:
    return Example(id="x", messages=(), images=(), answer=answer)


def check_scores(scores: Scores, texts: list[str]) -> None:
    """Raise AssertionError where scores are not what such texts can earn."""
    assert set(scores.parts["accuracy"]) <= {0.0, 1.0}
    assert set(scores.parts["format"]) <= {0.0, 0.5}
    assert scores.parts["lengths"] == [len(text) for text in texts]
    assert scores.correct == [reward == 1 for reward in scores.parts["accuracy"]]


def check_rollouts(folder: RunFolder, step: int, texts: list[str], gold: str, scores: Scores) -> None:
    """Write the group as a training run would; raise AssertionError where it is not read back the same."""
    drawn = Drawn(0, question(gold), PROMPT)
    completions = [Completion(TOKEN, TOKEN, text, 0, "stop") for text in texts]
    rows = list(rollout_rows(scored_groups([drawn], [completions], [scores], ObjectiveSettings())))
    path = folder.write_rollouts(step, rows)
    read = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    assert read == [row | {"text": after_json(row["text"])} for row in rows]
    path.unlink()


def watch_workers(peak: list[int], ended: Event) -> None:
    """Keep in `peak` the most bytes that one child process holds, looking twenty times a second."""
    while not ended.wait(0.05):
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                peak[0] = max(peak[0], child.memory_info().rss)


def run(strings: int, seed: int, folder: Path) -> dict[str, float]:
    """Score and write `strings` texts; return what was counted."""
    own = folder / "lengths.py"
    own.write_text(LENGTHS)
    dice, started, slowest = Random(seed), time.perf_counter(), 0.0
    rewards = RewardSettings(functions={"accuracy": 1.0, "format": 1.0, str(own): 0.0}, workers=2)
    settings = TrainSettings(model={"path": "m"}, data={"path": "d"})
    with Scorer(rewards) as scorer, RunFolder(folder / "run", settings) as output:
        for done in range(8, strings + 8, 8):
            texts, gold, begun = hostile_group(dice), dice.choice(GOLDS), time.perf_counter()
            scores = scorer.score(texts, question(gold))
            slowest = max(slowest, time.perf_counter() - begun)
            check_scores(scores, texts)
            check_rollouts(output, done, texts, gold, scores)
            if done % 1000 == 0:
                print(f"{done:>7}  slowest group {slowest:5.2f} s  {time.perf_counter() - started:6.0f} s", flush=True)
    return {
        "strings": done,
        "seed": seed,
        "slowest_group_s": round(slowest, 2),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Print a line every thousand texts, then the result, which is also written to `results/`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "hostile_output.json")
    arguments = parser.parse_args()
    peak, ended = [0], Event()
    watch = Thread(target=watch_workers, args=(peak, ended))
    watch.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = run(arguments.strings, arguments.seed, Path(folder))
    finally:
        ended.set()
        watch.join()
    result["peak_program_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    result["peak_worker_mib"] = peak[0] >> 20
    text = json.dumps(result, indent=2)
    print(text)
    arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
