"""`observe-r1 demo`: a tiny vision-language model learns to look first, then reason; no GPU, no downloads.

Dataset, warm start, a ladder measured by the model itself, reinforcement learning on it with the Observe-R1 recipe and
held-out questions before, meanwhile and after, a figure. The demonstrations of the warm start come from a teacher who
makes mistakes (`observe_r1.demo.tasks`), so reinforcement learning mostly unlearns the mistakes: it chooses among
things that the model already does sometimes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from observe_r1 import __version__
from observe_r1.cli.arguments import Arguments
from observe_r1.cli.start import heavy_imports, require_one_process, starting
from observe_r1.errors import UserError, in_words
from observe_r1.files import LOCK, lock_folder, make_folder, unlock_folder, write_atomic

if TYPE_CHECKING:
    from observe_r1.config import LadderSettings, SFTSettings, TrainSettings
    from observe_r1.run.progress import Progress

    _Settings = tuple[SFTSettings, LadderSettings, TrainSettings]

_MARK = ".observe-r1-demo"
"""The file with a demo's settings, its complete parts, and how many seconds they took."""
_WRITTEN = (
    *("sft", "train", "held_out", "tiny", "warm", "ladder", "rl"),
    *("summary.json", "demo.png", "demo_dark.png", "report.html"),
)
_PARTS = ("data", "warm start", "ladder", "reinforcement learning", "report")

T = TypeVar("T")
Run = TypeVar("Run", "SFTSettings", "TrainSettings")


def run(argv: list[str]) -> int:
    """Run the demo. Returns 0, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    require_one_process()
    return Demo(arguments.output, arguments.seed, arguments.threads).run()


def _parser() -> Arguments:
    parser = Arguments(
        "demo",
        description="Train a tiny Qwen2.5-VL on images of coloured shapes, end to end, in minutes.",
        epilog="Its demonstrations come from a teacher who makes mistakes on purpose; reinforcement learning unlearns"
        " them. Afterwards OUTPUT/rl is an ordinary run folder and OUTPUT/rl/model an ordinary checkpoint. After Ctrl-C"
        " or a crash the same command resumes; it replaces a complete demo.",
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
    complete: list[str] = field(default_factory=list)
    """Parts whose results are in the folder; an earlier demo that was stopped may have made them."""

    def run(self) -> int:
        """Do everything, in order, or resume a demo with the same settings that was stopped.

        Returns:
            0, or 130 after Ctrl-C.

        Raises:
            UserError: another process is writing into the folder, or it holds something else.
        """
        with starting("demo"), heavy_imports():
            from observe_r1.cli.ladder import build
            from observe_r1.demo.outcome import report
            from observe_r1.run.progress import Progress
            from observe_r1.run.sft import fine_tune_model
            from observe_r1.run.train import train_model

        def watched(name: str, part: Callable[[Progress], T]) -> T:
            with Progress(f"demo {_PARTS.index(name) + 1}/{len(_PARTS)}: {name}") as view:
                view.resume_hint = "the same command"
                started = time.perf_counter()
                result = part(view)
                self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - started, 1)
                return result

        def kept(name: str, part: Callable[[Progress], int]) -> int:
            if name in self.complete:
                return 0
            interrupted = watched(name, part)
            self.complete += [] if interrupted else [name]
            self._write_mark(settings)
            return interrupted

        settings = warm_start, ladder, learning = self._settings()
        with self._claimed(settings):
            interrupted = (
                kept("data", self._make_data)
                or kept("warm start", lambda view: fine_tune_model(_resumed(warm_start), view).code)
                or kept("ladder", lambda view: build(ladder, view)[0])
                or kept("reinforcement learning", lambda view: train_model(_resumed(learning), view).code)
            )
            if not interrupted:
                watched("report", lambda view: report(self.output, self.seconds, view))
            return interrupted

    def _settings(self) -> _Settings:
        """Return the settings of each part: the tiny recipes, with this demo's paths, seed, threads."""
        from observe_r1.cli.options import parse_settings
        from observe_r1.config import LadderSettings, SFTSettings, TrainSettings

        sft = self._arguments("sft", model="tiny", output="warm")
        sft += [f"--data.path={self.output / 'sft' / 'sft.jsonl'}", f"--run.seed={self.seed}"]
        ladder = self._arguments("ladder", model="warm/model", output="ladder")
        ladder += [f"--data.sources={self.output / 'train' / 'train.jsonl'}", f"--seed={self.seed}"]
        learning = self._arguments("observe_r1", model="warm/model", output="rl")
        learning += [f"--data.path={self.output / 'ladder'}", f"--run.seed={self.seed}"]
        learning += [f"--evaluation.path={self.output / 'held_out' / 'held_out.jsonl'}", "--evaluation.every=45"]
        return (
            parse_settings(SFTSettings, [*sft, *self.warm_start_options], verb="sft"),
            parse_settings(LadderSettings, ladder, verb="ladder build"),
            parse_settings(TrainSettings, learning, verb="train"),
        )

    def _arguments(self, recipe: str, model: str, output: str) -> list[str]:
        options = {
            "model.path": self.output / model,
            "run.output": self.output / output,
            "run.threads": self.threads,
        }
        return [f"tiny/{recipe}", *(f"--{name}={value}" for name, value in options.items())]

    @contextmanager
    def _claimed(self, settings: _Settings) -> Iterator[None]:
        """Keep the folder for this demo during the block; first resume or remove an earlier demo in it."""
        refused = f"--output {self.output}: neither empty nor an earlier demo's folder; give another folder"
        if self.output.exists() and not self.output.is_dir():
            raise UserError(refused)
        try:
            make_folder(self.output)
            lock = lock_folder(self.output, "--output")
        except OSError as error:
            raise UserError(f"--output {self.output}: cannot be a demo's folder: {in_words(error)}") from error
        try:
            if (self.output / _MARK).exists():
                self._take_over(settings)
            elif {entry.name for entry in self.output.iterdir()} - {LOCK, f"{_MARK}.partial"}:
                raise UserError(refused)
            self._write_mark(settings)
            yield
        finally:
            unlock_folder(self.output, lock)

    def _take_over(self, settings: _Settings) -> None:
        """Resume the demo in the folder if it was stopped and had the same settings; otherwise remove it."""
        try:
            mark = json.loads((self.output / _MARK).read_bytes())
        except ValueError:  # another version's
            mark = {}
        same = mark.get("settings") == self._all(settings)
        if same and "data" in mark["complete"] and not (self.output / "summary.json").exists():
            self.complete, self.seconds = mark["complete"], mark["seconds"]
            print(f"resuming the demo in {self.output}; complete: {', '.join(self.complete)}")
            return
        written = [path for path in (self.output / name for name in _WRITTEN) if path.exists()]
        if written:
            why = "" if same else ", made with other settings or by another version"
            print(f"removing the earlier demo in {self.output}{why}")
        self._write_mark(settings)  # first, so that a half-removed demo is never resumed
        for path in written:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _write_mark(self, settings: _Settings) -> None:
        mark = {"settings": self._all(settings), "complete": self.complete, "seconds": self.seconds}
        write_atomic(self.output / _MARK, json.dumps(mark, indent=2) + "\n")

    def _all(self, settings: _Settings) -> dict[str, Any]:
        """Return everything that the contents of the folder depend on, as JSON values."""
        parts = zip(("warm start", "ladder", "reinforcement learning"), settings, strict=True)
        counts = {"demonstrations": self.demonstrations, "questions": self.questions, "held_out": self.held_out}
        return {
            **{"version": __version__, "seed": self.seed, "threads": self.threads},
            **counts,
            **{name: part.model_dump(mode="json") for name, part in parts},
        }

    def _make_data(self, view: Progress) -> int:
        from observe_r1.demo.dataset import write_demonstrations, write_questions
        from observe_r1.demo.tiny_model import make_tiny_model

        view.now(
            f"making {self.demonstrations:,} demonstrations, {self.questions:,} questions, "
            f"{self.held_out:,} held-out questions and a tiny model"
        )
        write_demonstrations(self.output / "sft", seed=self.seed, count=self.demonstrations)
        write_questions(self.output / "train", "train", seed=self.seed, count=self.questions)
        write_questions(self.output / "held_out", "held_out", seed=self.seed, count=self.held_out)
        make_tiny_model(self.output / "tiny", seed=self.seed)
        return 0


def _resumed(settings: Run) -> Run:
    """Return the settings of a run, set to resume if its folder holds one that was stopped."""
    stopped = (Path(settings.run.output) / "config.yaml").is_file()
    return settings.model_copy(update={"run": settings.run.model_copy(update={"resume": stopped})})
