"""`observe-r1 demo`: a tiny vision-language model learns to look first, then reason; no GPU, no downloads.

Dataset, warm start, reinforcement learning with the Observe-R1 recipe, evaluation before and after, a picture.
The demonstrations of the warm start come from a teacher who slips (`observe_r1.world.teacher`), so what reinforcement
learning mostly does here is to unlearn the slips: it chooses among things that the model already does sometimes.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from observe_r1.errors import UserError

_DEMONSTRATIONS, _QUESTIONS, _HELD_OUT = 8000, 2500, 1000
_MARK = ".observe-r1-demo"

T = TypeVar("T")


def run(argv: list[str]) -> int:
    """Run the demo. Returns 0, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    return Demo(arguments.output, arguments.seed, arguments.threads).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="observe-r1 demo",
        description="Train a tiny Qwen2.5-VL on pictures of coloured shapes, end to end, in minutes.",
        epilog="Its demonstrations come from a teacher who slips on purpose; reinforcement learning unlearns the slips."
        " Afterwards OUTPUT/rl is an ordinary run folder and OUTPUT/rl/model an ordinary checkpoint.",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder to write (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seeds data, model and sampling (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    return parser


class Demo:
    """One demo: its folder, its seed, and the seconds each part took."""

    def __init__(self, output: Path, seed: int, threads: int) -> None:
        self.output = output
        self.seed = seed
        self.threads = threads
        self.seconds: dict[str, float] = {}

    def run(self) -> int:
        """Do everything, in order."""
        from observe_r1.cli.demo_evaluation import evaluate_held_out
        from observe_r1.cli.demo_report import report

        self._claim_folder()
        self._timed("data", self._make_data)
        interrupted = self._timed("warm start", self._warm_start)
        if interrupted:
            return interrupted
        model = self.output / "warm" / "model"
        before = self._timed("evaluation before", lambda: evaluate_held_out(self.output, model, self.threads))
        interrupted = self._timed("reinforcement learning", self._learn)
        if interrupted:
            return interrupted
        model = self.output / "rl" / "model"
        after = self._timed("evaluation after", lambda: evaluate_held_out(self.output, model, self.threads))
        report(self.output, before, after, self.seconds)
        return 0

    def _timed(self, name: str, part: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = part()
        self.seconds[name] = round(time.perf_counter() - started, 1)
        return result

    def _claim_folder(self) -> None:
        """Empty the folder of an earlier demo; refuse one that holds anything else."""
        import shutil

        if self.output.exists() and any(self.output.iterdir()):
            if not (self.output / _MARK).exists():
                raise UserError(f"--output {self.output}: not empty and not an earlier demo's; give another folder")
            shutil.rmtree(self.output)
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / _MARK).touch()

    def _make_data(self) -> None:
        from observe_r1.world.dataset import write_demonstrations, write_questions
        from observe_r1.world.tiny_model import make_tiny_model

        print(f"making {_DEMONSTRATIONS} demonstrations, {_QUESTIONS} questions, {_HELD_OUT} held-out questions")
        write_demonstrations(self.output / "sft", seed=self.seed, count=_DEMONSTRATIONS)
        write_questions(self.output / "train", "train", seed=self.seed, count=_QUESTIONS)
        write_questions(self.output / "held_out", "held_out", seed=self.seed, count=_HELD_OUT)
        make_tiny_model(self.output / "tiny", seed=self.seed)

    def _warm_start(self) -> int:
        from observe_r1.cli.options import parse_settings
        from observe_r1.cli.sft import fine_tune_model
        from observe_r1.config import SFTSettings

        argv = self._arguments("sft", model="tiny", data="sft", output="warm")
        return fine_tune_model(parse_settings(SFTSettings, argv, verb="sft"), "warm start")

    def _learn(self) -> int:
        from observe_r1.cli.options import parse_settings
        from observe_r1.cli.train import train_model
        from observe_r1.config import TrainSettings

        argv = self._arguments("observe_r1", model="warm/model", data="train", output="rl")
        return train_model(parse_settings(TrainSettings, argv, verb="train"), "reinforcement learning")

    def _arguments(self, recipe: str, model: str, data: str, output: str) -> list[str]:
        """Return the command line of a tiny recipe, with the paths of this demo's folder."""
        options = {
            "model.path": self.output / model,
            "data.path": self.output / data / f"{data}.jsonl",
            "run.output": self.output / output,
            "run.seed": self.seed,
            "run.threads": self.threads,
        }
        path = Path(__file__).parents[1] / "recipes" / "tiny" / f"{recipe}.yaml"
        return [str(path), *(f"--{name}={value}" for name, value in options.items())]
