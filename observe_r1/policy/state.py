"""A policy's trained weights and optimizer state, to a folder and back, in torch's distributed format.

All ranks call at once, and each writes its own part; any number of ranks, or one process, reads what others wrote.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.tensor import DTensor

from observe_r1.errors import UserError

if TYPE_CHECKING:
    from observe_r1.policy.policy import Policy


class StateWriteError(OSError):
    """Torch's writer of tensors could not write a file; it does not pass on the system's reason."""


def save_state(policy: "Policy", folder: Path) -> None:
    """Write trained weights and optimizer state.

    Raises:
        OSError: They cannot be written.
    """
    with _plain_errors():
        dcp.save(_state(policy), checkpoint_id=folder, no_dist=not _is_sharded(policy))


def load_state(policy: "Policy", folder: Path) -> None:
    """Read what `save_state` wrote.

    Raises:
        UserError: It belongs to another model.
        OSError: It cannot be read.
    """
    both = _state(policy)
    saved = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    for name, weight in both["model"].items():
        if getattr(saved.get(f"model.{name}"), "size", None) != weight.shape:
            raise UserError(
                f"checkpoint {folder.parent} belongs to another model: {name} is {tuple(weight.shape)} in this one"
            )
    with _plain_errors():
        # A parameter that never had a gradient has no optimizer state yet.
        planner = DefaultLoadPlanner(allow_partial_load=True)
        dcp.load(both, checkpoint_id=folder, planner=planner, no_dist=not _is_sharded(policy))
    set_optimizer_state_dict(policy.weights, policy.optimizer, optim_state_dict=both["optimizer"])
    policy.publish()


def _is_sharded(policy: "Policy") -> bool:
    """Whether other ranks hold parts of the policy; vLLM starts torch.distributed for itself in the one process."""
    return any(isinstance(parameter, DTensor) for parameter in policy.parameters)


def _state(policy: "Policy") -> dict[str, Any]:
    """Return the trained weights and optimizer state, no copies of them: saving reads them and loading fills them."""
    if not policy.optimizer.state:
        get_optimizer_state_dict(policy.weights, policy.optimizer)
        # torch fills an empty optimizer state by a step at rate 0, which Adam's bias correction would count as one.
        for state in policy.optimizer.state.values():
            state["step"] *= 0
    trained = {name: p.detach() for name, p in policy.weights.named_parameters() if p.requires_grad}
    return {"model": trained, "optimizer": get_optimizer_state_dict(policy.weights, policy.optimizer)}


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what stops torch as it is, Ctrl-C too, where torch wraps it in an exception of its own.

    Also silences torch's warning that there is only one process, which `no_dist` has just told it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        try:
            yield
        except CheckpointException as error:
            cause, _ = next(iter(error.failures.values()))
            if isinstance(cause, RuntimeError) and "inline_container" in str(cause):
                raise StateWriteError("the disk may be full") from cause
            raise cause from error
