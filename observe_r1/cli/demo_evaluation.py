"""The demo's held-out questions, answered greedily and graded."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from observe_r1.config import DataSettings, ModelSettings, RewardSettings
from observe_r1.data import load_data
from observe_r1.evaluation.accuracy import Graded, evaluate
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Example, Prompt, Sampling
from observe_r1.rewards import Scorer
from observe_r1.rollout.embedded import EmbeddedEngine


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The graded held-out questions, in the order of their file, with each one's number of objects."""

    graded: list[Graded]
    objects: list[int]


def evaluate_held_out(demo: Path, run: str, threads: int) -> HeldOut:
    """Grade one greedy response to each held-out question of the demo in `demo`, by the model of its run `run`."""
    import torch

    torch.set_num_threads(threads)
    path = demo / "held_out" / "held_out.jsonl"
    data = DataSettings(path=str(path))
    examples = load_data(data, seed=0)
    vlm = load_model(ModelSettings(path=str(demo / run / "model"), device="cpu"))
    graded: list[Graded] = []
    with Scorer(RewardSettings()) as scorer, Progress(transient=True) as view:
        task = view.add_task("evaluating", total=len(examples))

        def encode(example: Example, row: int) -> Prompt:
            return encode_prompt(example, vlm.processor, data, row)

        greedy = Sampling(temperature=0, max_new_tokens=64)
        for part in evaluate(EmbeddedEngine(vlm), encode, examples, scorer, greedy):
            graded += part
            view.update(task, completed=len(graded))
    rows = path.read_text(encoding="utf-8").splitlines()
    return HeldOut(graded, [json.loads(row)["level"] for row in rows])
