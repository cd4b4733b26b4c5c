"""The demo's held-out questions, answered greedily and graded."""

import json
from dataclasses import dataclass
from pathlib import Path

from observe_r1.config import DataSettings, ModelSettings, RewardSettings
from observe_r1.data import load_data
from observe_r1.evaluation.accuracy import Graded, evaluate
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Example, Prompt, Sampling
from observe_r1.rewards import Scorer
from observe_r1.rollout.embedded import EmbeddedEngine
from observe_r1.training.progress import Progress


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The graded held-out questions, in the order of their file, with each one's number of objects."""

    graded: list[Graded]
    objects: list[int]


def evaluate_held_out(demo: Path, run: str, threads: int, view: Progress) -> HeldOut:
    """Grade one greedy response to each held-out question of the demo in `demo`, by the model of its run `run`."""
    import torch

    torch.set_num_threads(threads)
    path = demo / "held_out" / "held_out.jsonl"
    data = DataSettings(path=str(path))
    examples = load_data(data, seed=0)
    view.now("loading the model")
    vlm = load_model(ModelSettings(path=str(demo / run / "model"), device="cpu"))
    engine = EmbeddedEngine(vlm)
    graded: list[Graded] = []
    view.now("evaluating", len(examples), lambda: engine.finished)
    with Scorer(RewardSettings()) as scorer:

        def encode(example: Example, row: int) -> Prompt:
            return encode_prompt(example, vlm.processor, data, row)

        greedy = Sampling(temperature=0, max_new_tokens=64)
        for part in evaluate(engine, encode, examples, scorer, greedy):
            graded += part
    rows = path.read_text(encoding="utf-8").splitlines()
    return HeldOut(graded, [json.loads(row)["level"] for row in rows])
