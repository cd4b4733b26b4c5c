"""Checkpoints: everything a killed run needs to go on as if nothing had happened.

    checkpoints/step-000020/
        weights/        trained weights and optimizer state in torch's distributed format, as sharded runs read it
        state.json      step, position in the data, leftover groups without their tensors
        leftovers.safetensors

A checkpoint is written beside and renamed, so it is whole or absent. Nothing in it is pickled but what torch's format
pickles itself (the plan of its files), and it is only ever read from the run's own folder.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from observe_r1.errors import UserError
from observe_r1.files import replacing
from observe_r1.policy.policy import Policy
from observe_r1.training.step_files import step_of

FORMAT = 2
"""Raised when a checkpoint of before can no longer be read."""

_BROKEN = (
    *(OSError, EOFError, KeyError, ValueError, RuntimeError),
    *(UnpicklingError, SafetensorError, CheckpointException),
)
"""What reading a damaged checkpoint raises, depending on which byte is missing."""


class Checkpoints:
    """The newest `keep` checkpoints of a run and its best, in the run folder's `checkpoints/`."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(
        self, step: int, policy: Policy, state: dict[str, Any], tensors: dict[str, Tensor], best: int | None = None
    ) -> Path:
        """Write the checkpoint of `step`, then remove all but the newest `keep` and the best; return its folder.

        Args:
            step: steps done, counted from 1.
            policy: whose weights and optimizer state are saved.
            state: what else is needed, as JSON values.
            tensors: what of it are tensors.
            best: step of the best checkpoint, which stays; None where there is none.

        Errors: `UserError` where it cannot be written, a full disk for one; the checkpoints before are as they were.
        """
        path = self.folder / f"step-{step:06d}"
        try:
            with replacing(path) as new:
                with _alone():
                    dcp.save(_weights(policy), checkpoint_id=new / "weights", no_dist=True)
                save_file(tensors, new / "leftovers.safetensors")
                (new / "state.json").write_text(json.dumps({"format": FORMAT, "step": step, **state}), encoding="ascii")
        except (OSError, CheckpointException, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            if isinstance(error, CheckpointException):
                cause = next(iter(error.failures.values()))[0]
                if isinstance(cause, KeyboardInterrupt):  # which torch wraps like any failure
                    raise cause from None
                reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else "the disk may be full"
            raise UserError(f"cannot write checkpoint {str(path)!r}: {reason}") from error
        for old in self._newest_first()[self.keep :]:
            if step_of(old) != best:
                shutil.rmtree(old)
        return path

    def load_newest(
        self, policy: Policy, note: Callable[[str], None]
    ) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Load the newest whole checkpoint into `policy`; return its state and tensors, or None where there is none.

        A damaged one is passed over, and `note` is told. Errors: `UserError` for a checkpoint of a newer format or of
        another model, and where there are checkpoints but none is whole.
        """
        found = self._newest_first()
        for path in found:
            try:
                return self._load(path, policy)
            except _BROKEN as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                note(f"checkpoint {path} is damaged ({reason:.100}); trying the one before")
        if found:
            raise UserError(f"no checkpoint in {self.folder} is whole: remove the run folder and start anew")
        return None

    def _load(self, path: Path, policy: Policy) -> tuple[dict[str, Any], dict[str, Tensor]]:
        state = json.loads((path / "state.json").read_text(encoding="ascii"))
        if state["format"] > FORMAT:
            raise UserError(f"checkpoint {path} was written by a newer version of observe-r1: update it")
        if state["format"] < FORMAT:
            raise UserError(f"checkpoint {path} was written by an older version of observe-r1: go on with that one")
        tensors = load_file(path / "leftovers.safetensors")
        both = _weights(policy)
        saved = _metadata(path / "weights")
        for name, weight in both["model"].items():
            if getattr(saved.get(f"model.{name}"), "size", None) != weight.shape:
                raise UserError(f"checkpoint {path} is of another model: {name} is {tuple(weight.shape)} here")
        with _alone():
            # A parameter that never had a gradient has no optimizer state yet.
            planner = DefaultLoadPlanner(allow_partial_load=True)
            dcp.load(both, checkpoint_id=path / "weights", planner=planner, no_dist=True)
        set_optimizer_state_dict(policy.weights, policy.optimizer, optim_state_dict=both["optimizer"])
        policy.publish()
        return state, tensors

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=step_of, reverse=True)


def _weights(policy: Policy) -> dict[str, Any]:
    """Return references to trained weights and optimizer state, which saving reads and loading fills."""
    if not policy.optimizer.state:
        get_optimizer_state_dict(policy.weights, policy.optimizer)
        # torch fills an empty optimizer state by a step at rate 0; Adam's bias correction would count it ever after.
        for state in policy.optimizer.state.values():
            state["step"] *= 0
    trained = {name: p.detach() for name, p in policy.weights.named_parameters() if p.requires_grad}
    return {"model": trained, "optimizer": get_optimizer_state_dict(policy.weights, policy.optimizer)}


def _metadata(weights: Path) -> dict[str, Any]:
    try:
        return dict(dcp.FileSystemReader(weights).read_metadata().state_dict_metadata)
    except Exception as error:  # torch pickles its metadata, and a pickle with one wrong byte can raise anything
        raise ValueError(f"unreadable metadata: {error}") from error


@contextmanager
def _alone() -> Iterator[None]:
    """Keep torch from warning that there is only one process, which `no_dist` has just told it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield
