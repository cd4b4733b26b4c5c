"""What a run writes down: metrics, evaluations, checkpoints and the best model step by step, at the end the model."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from observe_r1.cluster import RankLostError
from observe_r1.config import SFTSettings, TrainSettings
from observe_r1.data.same_rows import check_rows, row_digests
from observe_r1.errors import UserError, disk_fault
from observe_r1.records import Group
from observe_r1.rewards.accuracy import read_as
from observe_r1.rewards.custom import reward_file_digests
from observe_r1.run.checkpoint import Checkpoints
from observe_r1.run.folder import RunFolder
from observe_r1.run.held_out import HeldOutEvaluator
from observe_r1.run.progress import Progress
from observe_r1.run.resume import RunState
from observe_r1.run.trackers import Trackers, rows_between
from observe_r1.run.trackers.tables import Table, evaluation_table, group_table
from observe_r1.training.parts import SavedPolicy
from observe_r1.training.prompts import PromptEncoder, PromptSource


@dataclass(slots=True)
class Best:
    """Which of the evaluations, taken in their order, is the best; of equal ones the first."""

    step: int | None = None
    """Steps done when the best was made: 0 for the starting model, None before the first evaluation."""
    accuracy: float = -1.0
    since: int = 0
    """Evaluations after the best one."""

    def take(self, step: int, accuracy: float) -> bool:
        """Take the evaluation after `step` steps; return whether it is the best so far."""
        if accuracy > self.accuracy:
            self.step, self.accuracy, self.since = step, accuracy, 0
        else:
            self.since += 1
        return self.since == 0

    def state_dict(self) -> dict[str, Any]:
        """Return its state as JSON values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        self.step, self.accuracy, self.since = state["step"], state["accuracy"], state["since"]


class Recorder:
    """Writes a run down, and resumes it: what `training.loop` and `training.sft` report to (their `Monitor`).

    Making one resumes where `run.resume` asks for it, and removes what an earlier process wrote after that step. A step
    is written in this order, so that a run killed in between can tell what is missing: rollouts, evaluation, metrics,
    checkpoint, best model.

    Args:
        folder: To write into.
        settings: Of the run.
        policy: Whose weights and optimizer are saved and restored.
        source: Where the run's prompts come from, whose position is saved and restored.
        encode: Makes the prompts of leftover groups again.
        view: Shows the run.
        evaluator: Evaluates on held-out questions; None for none.

    Raises:
        UserError: The newest checkpoint cannot be resumed, or a file of the folder cannot be written.
    """

    def __init__(
        self,
        folder: RunFolder,
        settings: TrainSettings | SFTSettings,
        policy: SavedPolicy,
        source: PromptSource,
        encode: PromptEncoder,
        view: Progress,
        evaluator: HeldOutEvaluator | None = None,
    ) -> None:
        self.step = 0
        """Steps done."""
        self.best = Best()
        self.line = ""
        """The run's last line, once it has ended."""
        self.now = view.now
        self._unsaved = False
        """Whether something happened since the newest checkpoint."""
        self._owed: dict[str, float] | None = {}
        """Metrics of the last step, if its evaluation is still to be made; at first the starting model's, empty."""
        self._folder, self._settings, self._policy, self._source = folder, settings, policy, source
        self._view, self._evaluator = view, evaluator
        self._questions = row_digests(evaluator.questions if evaluator else ())
        self._reward_files = reward_file_digests(settings.rewards) if isinstance(settings, TrainSettings) else {}
        self._checkpoints = Checkpoints(folder.checkpoints, settings.run.keep, copy=settings.run.save_in_background)
        self._state = RunState(self._checkpoints, policy, source, encode)
        if settings.run.resume:
            self._resume()
        folder.cut_back(self.step, measured=self.step if self._owed is None else self.step - 1)
        if settings.run.resume and folder.metrics.is_file():
            view.recall(rows_between(folder.metrics, -1, math.inf))
        self._shown: Table | None = None
        """Groups of the step that is being made, for the trackers."""
        self._trackers = Trackers(folder.path, settings.run, view.note)

    def _resume(self) -> None:
        restored = self._state.restore(self._view.note)
        if restored is None:
            return
        self.step, state = restored
        self._view.note(f"resuming after step {self.step}")
        if self._evaluator:
            check_rows(state["questions"], self._evaluator.questions, "evaluation.path")
        for name, digest in state.get("reward_files", {}).items():
            if self._reward_files.get(name, digest) != digest:
                self._view.note(f"{name} has changed: steps after {self.step} are scored by its new version")
        self._owed = state["owed"]
        self.best.load_state_dict(state["best"])
        self._checkpoints.remove_old(self.best.step)

    # What the loops call

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the block, then save a checkpoint and the model, and leave the run's last line in `line`.

        Raises:
            UserError: The block, or saving, raised it or filled the disk; what was learned is saved if it can be,
                and the error says where.
        """
        try:
            try:
                yield
                self._save_checkpoint()
                self._finish_saving()
            except (UserError, OSError) as caught:
                error = caught if isinstance(caught, UserError) else disk_fault(caught)
                if error is None or self.step == 0:
                    raise
                raise UserError(f"{error} ({self._rescued()})") from caught
            self.line = self._ended()
        except (RankLostError, KeyboardInterrupt):
            self._checkpoints.settle(give_up=True)
            raise
        finally:
            self._checkpoints.settle()
            self._trackers.close()

    def catch_up(self) -> None:
        """Do what an earlier process left undone: evaluate the last step, or the starting model; export the best."""
        if self._evaluator and self._owed is not None:
            self._record(self._owed, self._evaluator)
        elif self._evaluator and self.best.step == self.step:
            self._export_best(self._evaluator)

    def stopped(self) -> bool:
        """Whether the run is to end: Ctrl-C was pressed, or `evaluation.patience` is used up."""
        return self._view.stop.requested or self._out_of_patience()

    def write_rollouts(self, step: int, groups: Sequence[Group]) -> Path:
        """Write the responses sampled for `step`; see `RunFolder.write_rollouts`."""
        run = self._settings.run
        if self._trackers.shows(step):
            self._shown = group_table(groups, run.track_groups, run.track_bytes, self._settings.data)
        return self._folder.write_rollouts(step, rollout_rows(groups))

    def step_done(self, step: int, metrics: dict[str, float], *, last: bool) -> None:
        """Record `step`: evaluate it if that is due, write and show its metrics, save a checkpoint if one is due.

        Args:
            step: Steps done, counted from 1.
            metrics: By names such as `reward/mean`.
            last: Whether the run has reached its length; the last step is always evaluated.
        """
        self.step, self._unsaved = step, True
        due = self._evaluator and (last or self._evaluator.due(step))
        self._record(metrics, self._evaluator if due else None)

    # How a step is recorded

    def _record(self, metrics: dict[str, float], evaluator: HeldOutEvaluator | None) -> None:
        if evaluator:
            self._finish_saving()
        found = evaluator.evaluate(self.step) if evaluator else None
        better = evaluator and found and self.best.take(self.step, found[f"evaluation/{evaluator.best_by}"])
        self._owed = metrics if evaluator and not found else None
        if found:
            metrics = metrics | found
            self._unsaved = True
        if metrics:
            self._trackers.write(self.step, metrics, self._tables(evaluator if found else None), whole=not self._owed)
            self._view.update(self.step, metrics)
        self._checkpoints.look()
        if better or self.step % self._settings.run.save_every == 0:
            self._save_checkpoint()
        if evaluator and better:
            self._export_best(evaluator)

    def _tables(self, evaluator: HeldOutEvaluator | None) -> list[Table]:
        """Return what the trackers show of this step; of `evaluator`, if it has just evaluated."""
        tables, self._shown = [self._shown] if self._shown else [], None
        if evaluator and self._trackers.any:
            tables.append(evaluation_table(evaluator.graded, self._settings.run.track_bytes, self._settings.data))
        return tables

    def _save_checkpoint(self) -> None:
        """Begin to write a checkpoint of the last step, unless there is one."""
        if self._unsaved and self.step > 0:
            self.now("saving a checkpoint")
            record = {"owed": self._owed, "best": self.best.state_dict(), "questions": self._questions}
            self._state.save(self.step, record | {"reward_files": self._reward_files}, self.best.step)
            self._unsaved = False

    def _finish_saving(self) -> None:
        """Wait until the newest checkpoint is on the disk."""
        self.now("saving a checkpoint")
        self._checkpoints.finish()

    def _export_best(self, evaluator: HeldOutEvaluator) -> None:
        """Export the model as it is, the best so far, unless that was done; the starting model is there already."""
        if self.step > 0 and self._folder.best_step() != self.step:
            self._finish_saving()  # which the best model must not outlive
            self.now("saving the best model")
            self._save_model(self._folder.best)
            self._folder.write_best(self.step, evaluator.best_by, self.best.accuracy)

    def _save_model(self, folder: Path) -> None:
        self._policy.export(folder, self._settings.data)

    def _out_of_patience(self) -> bool:
        patience = self._evaluator.settings.patience if self._evaluator else None
        return patience is not None and self.best.since >= patience

    # How a run ends

    def _ended(self) -> str:
        """Save the final model, and return the run's last line."""
        interrupted = self._view.stop.requested
        how = "interrupted" if interrupted else "stopped early" if self._out_of_patience() else "done"
        if self.step:
            self.now("saving the model")
            self._save_model(self._folder.model)
            line = f"{how} after step {self.step}: model in {self._folder.model}, metrics in {self._folder.metrics}"
            line += f"; {self._view.resume_hint} continues it" if interrupted else ""
        else:
            line = f"{how} before the first step: no model to save"
        if self._evaluator and self.best.step is not None:
            line += f"; {self._best_line(self._evaluator)}"
        if self._source.dropped:
            line += f"; {self._source.dropped} prompts over data.max_prompt_tokens were dropped"
        return line

    def _best_line(self, evaluator: HeldOutEvaluator) -> str:
        line = f"best held-out {evaluator.best_by} {self.best.accuracy:.1%} "
        line += f"after step {self.best.step}" if self.best.step else "of the starting model"
        if self._folder.best_step() == self.best.step:
            line += f", model in {self._folder.best}"
        return line + (
            f", evaluations since without a better one: {self.best.since}" if self._out_of_patience() else ""
        )

    def _rescued(self) -> str:
        """Save the model of a run that an error has ended; return what there is, for the error's message."""
        with suppress(UserError):  # it may be the very error
            self._finish_saving()
        self.now("saving the model")
        model = f"its model is in {self._folder.model}"
        try:
            self._save_model(self._folder.model)
        except UserError:  # a full disk stops both; the user must hear what stopped the run
            model = "its model cannot be saved either"
        checkpoint = "there is no checkpoint yet"
        if self._checkpoints.newest:
            checkpoint = f"{self._view.resume_hint} continues after step {self._checkpoints.newest}"
        return f"stopped after step {self.step}, {model}; {checkpoint}"


def rollout_rows(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Yield one row per sampled response: what it says, what it earned, and its advantage."""
    for group in groups:
        for number, completion in enumerate(group.completions):
            yield {
                "id": group.example.id,
                "response": number,
                "text": completion.text,
                "answer": group.example.answer,
                "tokens": len(completion.ids),
                "finish": completion.finish,
                "version": completion.version,
                "last_version": int(completion.token_versions[-1]),
                "correct": bool(group.correct[number]),
                "read_as": None if group.correct[number] else read_as(completion.text),
                "reward": float(group.rewards[number]),
                "parts": {name: float(values[number]) for name, values in group.parts.items()},
                "bonus": float(group.bonus[number]),
                "weight": group.weight,
                "advantage": float(group.advantages[number]),
            }
