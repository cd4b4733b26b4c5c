"""A policy's trained weights and optimizer state, to a folder and back, in torch's distributed format.

All ranks call at once, and each writes its own part; any number of ranks, or one process, reads what others wrote.

Saving copies them to the CPU's memory (torch's stager) and writes the copies in a thread while training goes on. This
is what `dcp.async_save` does, which refuses a process where vLLM has started torch.distributed for its GPU alone. The
threads of ranks speak to each other in a gloo group of their own: in that of the passes their messages would mix.
"""

import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed.checkpoint as dcp
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.tensor import DTensor

from observe_r1.errors import UserError

if TYPE_CHECKING:
    from observe_r1.policy.policy import Policy


class StateWriteError(OSError):
    """Torch's writer of tensors could not write a file; it does not pass on the system's reason."""


class StateWriting:
    """Weights and optimizer state on their way to the disk.

    Args:
        future: Of torch's `save`, on this rank.
    """

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def done(self) -> bool:
        """Whether all ranks have written all. Raises: OSError: They cannot be written."""
        if not self._future.done():
            return False
        with _plain_errors():
            self._future.result()
        return True


def save_state(policy: "Policy", folder: Path, *, copy: bool) -> StateWriting:
    """Begin to write trained weights and optimizer state.

    Args:
        policy: All ranks' calls come together.
        folder: Of the checkpoint, the same for all.
        copy: Write copies, which the policy may train away from; without, all is written when this returns.
    """
    _silence()
    state: Any = _state(policy)
    sharded = _is_sharded(policy)
    if sharded and policy.writers is None:
        policy.writers = distributed.new_group(backend="gloo")
    # One thread a save, which lives as long as it writes.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
    if copy:
        stager = DefaultStager(StagingOptions(False, False, False, False))
        state = stager.stage(state)
        stager.close()  # else it holds on to the copies
    writing = executor.submit(dcp.save, state, checkpoint_id=folder, process_group=policy.writers, no_dist=not sharded)
    executor.shutdown(wait=not copy)
    return StateWriting(writing)


def load_state(policy: "Policy", folder: Path) -> None:
    """Read what `save_state` wrote.

    Raises:
        UserError: It belongs to another model.
        OSError: It cannot be read.
    """
    _silence()
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


def _silence() -> None:
    """Silence the warning by which torch answers `no_dist`, for good: a filter set in one thread holds in all."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


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
    """Raise what stops torch as it is, Ctrl-C too, where torch wraps it in an exception of its own."""
    try:
        yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        if isinstance(cause, RuntimeError) and "inline_container" in str(cause):
            raise StateWriteError("the disk may be full") from cause
        raise cause from error
