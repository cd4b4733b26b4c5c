"""`observe-r1 demo`: a tiny vision-language model learns to look first, then reason; no GPU, no downloads.

Dataset, warm start, a ladder measured by the model itself, reinforcement learning on it with the Observe-R1 recipe,
evaluation before and after, a picture.
The demonstrations of the warm start come from a teacher who slips (`observe_r1.world.teacher`), so what reinforcement
learning mostly does here is to unlearn the slips: it chooses among things that the model already does sometimes.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from observe_r1.cli.heavy_imports import heavy_imports
from observe_r1.cli.needs import require_one_process
from observe_r1.cli.terminal import starting
from observe_r1.errors import UserError

if TYPE_CHECKING:
    from observe_r1.training.progress import Progress

_MARK = ".observe-r1-demo"

T = TypeVar("T")


def run(argv: list[str]) -> int:
    """Run the demo. Returns 0, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    require_one_process()
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


@dataclass
class Demo:
    """One demo: its folder, its seed, how much it makes, and the seconds each part took."""

    output: Path
    seed: int = 0
    threads: int = 2
    demonstrations: int = 8000
    questions: int = 2500
    held_out: int = 1000
    warm_start_options: tuple[str, ...] = ()
    """Dotted options over the warm start's recipe."""
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> int:
        """Do everything, in order."""
        with starting("demo"), heavy_imports():
            from observe_r1.cli.demo_evaluation import evaluate_held_out
            from observe_r1.cli.demo_report import report
            from observe_r1.cli.ladder_run import run_verb
            from observe_r1.cli.sft_run import fine_tune_model
            from observe_r1.cli.train_run import train_model
            from observe_r1.training.progress import Progress

        def watched(name: str, part: Callable[[Progress], T]) -> T:
            with Progress(f"demo: {name}") as view:
                started = time.perf_counter()
                result = part(view)
                self.seconds[name] = round(time.perf_counter() - started, 1)
                return result

        warm_start, ladder, learning = self._settings()
        self._claim_folder()
        watched("data", self._make_data)
        interrupted = watched("warm start", lambda view: fine_tune_model(warm_start, view).code)
        if interrupted:
            return interrupted
        interrupted = watched("ladder", lambda view: run_verb("build", ladder, view))
        if interrupted:
            return interrupted
        before = watched("evaluation before", lambda view: evaluate_held_out(self.output, "warm", self.threads, view))
        interrupted = watched("reinforcement learning", lambda view: train_model(learning, view).code)
        if interrupted:
            return interrupted
        after = watched("evaluation after", lambda view: evaluate_held_out(self.output, "rl", self.threads, view))
        with Progress("demo: report") as view:
            view.now("drawing the result")
            report(self.output, before, after, self.seconds, view)
        return 0

    def _settings(self) -> tuple[Any, Any, Any]:
        """Return the settings of each part: the tiny recipes, with this demo's paths, seed, threads."""
        from observe_r1.cli.ladder_settings import ladder_settings
        from observe_r1.cli.options import parse_settings
        from observe_r1.config import SFTSettings, TrainSettings

        sft = self._arguments("sft", model="tiny", output="warm")
        sft += [f"--data.path={self.output / 'sft' / 'sft.jsonl'}", f"--run.seed={self.seed}"]
        ladder = self._arguments("ladder", model="warm/model", output="ladder")
        ladder += [f"--data.sources={self.output / 'train' / 'train.jsonl'}", f"--seed={self.seed}"]
        learning = self._arguments("observe_r1", model="warm/model", output="rl")
        learning += [f"--data.path={self.output / 'ladder'}", f"--run.seed={self.seed}"]
        return (
            parse_settings(SFTSettings, [*sft, *self.warm_start_options], verb="sft"),
            ladder_settings("build", ladder),
            parse_settings(TrainSettings, learning, verb="train"),
        )

    def _arguments(self, recipe: str, model: str, output: str) -> list[str]:
        options = {
            "model.path": self.output / model,
            "run.output": self.output / output,
            "run.threads": self.threads,
        }
        path = Path(__file__).parents[1] / "recipes" / "tiny" / f"{recipe}.yaml"
        return [str(path), *(f"--{name}={value}" for name, value in options.items())]

    def _claim_folder(self) -> None:
        """Empty the folder of an earlier demo; refuse one that holds anything else."""
        if self.output.is_dir() and (self.output / _MARK).exists():
            shutil.rmtree(self.output)
        elif self.output.exists() and not (self.output.is_dir() and not any(self.output.iterdir())):
            raise UserError(f"--output {self.output}: neither empty nor an earlier demo's folder; give another one")
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / _MARK).touch()

    def _make_data(self, view: Progress) -> None:
        from observe_r1.world.dataset import write_demonstrations, write_questions
        from observe_r1.world.tiny_model import make_tiny_model

        view.now(
            f"making {self.demonstrations:,} demonstrations, {self.questions:,} questions, "
            f"{self.held_out:,} held-out questions and a tiny model"
        )
        write_demonstrations(self.output / "sft", seed=self.seed, count=self.demonstrations)
        write_questions(self.output / "train", "train", seed=self.seed, count=self.questions)
        write_questions(self.output / "held_out", "held_out", seed=self.seed, count=self.held_out)
        make_tiny_model(self.output / "tiny", seed=self.seed)
