"""What a run writes down step by step: metrics, evaluations, checkpoints, the best model, the view."""

from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from observe_r1.config import DataSettings, RunSettings
from observe_r1.data.same_rows import check_rows, row_digests
from observe_r1.model.saving import save_model
from observe_r1.policy.policy import Policy
from observe_r1.run.checkpoint import Checkpoints
from observe_r1.run.folder import RunFolder
from observe_r1.run.held_out import HeldOut
from observe_r1.run.progress import Progress
from observe_r1.run.resume import Resumable, RunState
from observe_r1.run.trackers import open_sinks
from observe_r1.training.prompts import Encode


@dataclass(slots=True)
class Best:
    """Takes evaluations in their order; the first of equal ones is the best."""

    step: int | None = None
    """Steps done when the best was made: 0 for the starting model, None before the first evaluation."""
    accuracy: float = -1.0
    since: int = 0
    """Evaluations after the best one."""

    def take(self, step: int, accuracy: float) -> bool:
        """Take in the evaluation of `step`; return whether it is the best so far."""
        if accuracy > self.accuracy:
            self.step, self.accuracy, self.since = step, accuracy, 0
        else:
            self.since += 1
        return self.since == 0

    def state_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.step, self.accuracy, self.since = state["step"], state["accuracy"], state["since"]


class Record:
    """A run's own account of itself; a context manager.

    Opening it resumes where `run.resume` asks for that, and removes what an earlier run wrote after that step. A step
    is written in this order, so that a run killed in between can tell what is missing: evaluation, metrics, checkpoint,
    best model.
    """

    def __init__(
        self,
        folder: RunFolder,
        run: RunSettings,
        data: DataSettings,
        policy: Policy,
        position: Resumable,
        encode: Encode,
        view: Progress,
        held_out: HeldOut | None = None,
    ) -> None:
        self.view = view
        self.line = ""
        """The run's last line, once it has ended."""
        self.step = 0
        """Steps done."""
        self.best = Best()
        self._owed: dict[str, float] | None = {}
        """Metrics of the last step, where its evaluation is still to be made; the starting model's is owed at first."""
        self.saved = 0
        """The step of the newest checkpoint; 0 where there is none."""
        self._saved = True
        self._every = run.save_every
        self._folder, self._data, self._policy, self._held_out = folder, data, policy, held_out
        self._questions = row_digests(held_out.questions if held_out else ())
        self._state = RunState(Checkpoints(folder.checkpoints, run.keep), policy, position, encode)
        restored = self._state.restore(view.note) if run.resume else None
        if restored:
            self.step, state = restored
            self.saved = self.step
            view.note(f"resuming after step {self.step}")
            if held_out:
                check_rows(state["questions"], held_out.questions, "evaluation.path")
            self._owed = state["owed"]
            self.best.load_state_dict(state["best"])
            self._state.checkpoints.remove_old(self.best.step)
        folder.cut_back(self.step, measured=self.step if self._owed is None else self.step - 1)
        self._sinks = open_sinks(folder.path, run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sink in self._sinks:
            sink.close()

    @property
    def out_of_patience(self) -> bool:
        """Whether `evaluation.patience` evaluations brought none that was better."""
        patience = self._held_out.settings.patience if self._held_out else None
        return patience is not None and self.best.since >= patience

    @property
    def best_line(self) -> str:
        """What the best evaluation was and where its model is; only after an evaluation."""
        assert self._held_out is not None
        line = f"best held-out {self._held_out.best_by} {self.best.accuracy:.1%} "
        line += f"after step {self.best.step}" if self.best.step else "of the starting model"
        if self._folder.best_step() == self.best.step:
            line += f", model in {self._folder.best}"
        return line + (f", evaluations since without a better one: {self.best.since}" if self.out_of_patience else "")

    def begin(self) -> None:
        """Make up for what is missing: the evaluation of the starting model or of the last step, the best model."""
        if self._held_out and self._owed is not None:
            self._write(self._owed, self._held_out)
        elif self._held_out and self.best.step == self.step:
            self._save_best(self._held_out)

    def step_done(self, step: int, metrics: dict[str, float], last: bool = False) -> None:
        """Write and show the metrics of `step`, evaluated where that is due; write a checkpoint where one is due."""
        self.step = step
        self._saved = False
        due = self._held_out and (last or self._held_out.due(step))
        self._write(metrics, self._held_out if due else None)

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the last step, unless there is one."""
        if not self._saved and self.step > 0:
            self.view.now("saving a checkpoint")
            state = {"owed": self._owed, "best": self.best.state_dict(), "questions": self._questions}
            self._state.save(self.step, state, self.best.step)
            self._saved, self.saved = True, self.step

    def _write(self, metrics: dict[str, float], held_out: HeldOut | None) -> None:
        found = held_out.evaluate(self.step) if held_out else None
        better = held_out and found and self.best.take(self.step, found[f"evaluation/{held_out.best_by}"])
        self._owed = metrics if held_out and not found else None
        if found:
            metrics = metrics | found
            self._saved = False
        if metrics:
            for sink in self._sinks:
                sink.write(self.step, metrics)
            self.view.update(self.step, metrics)
        if better or self.step % self._every == 0:
            self.save_checkpoint()
        if held_out and better:
            self._save_best(held_out)

    def _save_best(self, held_out: HeldOut) -> None:
        """Export the model as it is, the best so far, unless it has been; the starting model is there already."""
        if self.step > 0 and self._folder.best_step() != self.step:
            self.view.now("saving the best model")
            save_model(self._policy.vlm, self._folder.best, self._data)
            self._folder.write_best(self.step, held_out.best_by, self.best.accuracy)
