"""The policy's ranks as the driver sees them: it calls all of them together.

A batch is put into Ray's store once and read by every rank of a machine from there. All ranks return the same metrics
and log-probabilities, of which the first one's are taken.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import ray
from torch import Tensor

from observe_r1.cluster import RankLostError
from observe_r1.cluster.calls import collect
from observe_r1.cluster.placement import Seats
from observe_r1.cluster.rank_actor import BESIDE, PolicyRank
from observe_r1.config import DataSettings, TrainSettings
from observe_r1.errors import UserError
from observe_r1.records import Group, TrainingBatch
from observe_r1.rollout.engine import TrainingMemory

_LAST_WORDS = 30.0
"""Seconds in which ranks end a transfer of weights that has failed on one of them, or to an engine."""


class PolicyRanks:
    """The policy, as the driver sees it: what the loop, the recorder and the checkpoints ask of one.

    Args:
        settings: Of the run; `model.device` names the device of the ranks.
        seats: Where they are.
    """

    def __init__(self, settings: TrainSettings, seats: Seats) -> None:
        self._calling = threading.Lock()
        """Held while a call goes out to all ranks: they must get the calls of several threads in one order."""
        self._changed = False
        """Whether the weights are others than were sent last."""
        self._met: list[Any] = []
        """The engines that the ranks are connected with."""
        ranks = seats.counts.ranks
        actor = ray.remote(concurrency_groups={BESIDE: 1})(PolicyRank)  # type: ignore[call-overload]
        arguments, self._timeout = ray.put(settings), settings.cluster.timeout
        self._stuck = False
        """Whether some ranks have not ended a call that failed on others."""
        self._hung = False
        """Whether some have not ended a transfer of weights."""
        self._ranks: list[Any] = [
            actor.options(**seats.rank(rank)).remote(arguments, rank, ranks, seats.per_machine) for rank in range(ranks)
        ]
        addresses = self._call("address")
        self._check_shared(Path(settings.run.output), addresses)
        if seats.machines == 1:
            addresses = ["127.0.0.1"] * ranks
        port = self._collect([self._ranks[0].listen.remote(addresses[0])])[0]
        self.gpus = self._call("gpu")
        """Of each rank, as CUDA counts them on its machine."""
        meeting = addresses[0], port
        self._started = [
            rank.start.remote(meeting, address) for rank, address in zip(self._ranks, addresses, strict=True)
        ]

    def _check_shared(self, folder: Path, addresses: Sequence[str]) -> None:
        """Check that all ranks see the run folder, where each is to write its part of checkpoints and the model.

        Raises:
            UserError: One does not; or the folder cannot be written.
        """
        try:
            with NamedTemporaryFile(dir=folder, prefix=".shared-") as token:
                token.write(token.name.encode())
                token.flush()
                os.fsync(token.fileno())
                seen = self._call("sees", Path(token.name).absolute(), token.name.encode())
        except OSError as error:
            raise UserError(f"run.output = {str(folder)!r}: cannot be written: {error.strerror}") from error
        if blind := sorted({address for address, sees in zip(addresses, seen, strict=True) if not sees}):
            raise UserError(
                f"run.output = {str(folder)!r}: the policy's ranks on {', '.join(blind)} do not see what is written "
                "there: give a folder that all machines share, under the same path"
            )

    def ready(self) -> str:
        """Wait until all ranks have loaded their part; return the name of the device that they compute on."""
        return self._collect(self._started)[0]

    def update(self, batch: TrainingBatch) -> dict[str, float]:
        """Take one optimizer step; see `Policy.update`."""
        return self._call("update", ray.put(batch), changes=True)[0]

    def logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return the log-probabilities of each group; see `LogprobModel.logprobs`."""
        return self._call("logprobs", ray.put(groups))[0]

    def reference_logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return those under the reference model."""
        return self._call("reference_logprobs", ray.put(groups))[0]

    def save_state(self, folder: Path, *, copy: bool) -> "RankWriting":
        """Begin to write weights and optimizer state, each rank its part, into a folder that all machines share."""
        self._call("save_state", folder.absolute(), copy)
        return RankWriting(self._ranks)

    def load_state(self, folder: Path) -> None:
        """Read weights and optimizer state, which any number of ranks has written."""
        self._call("load_state", folder.absolute(), changes=True)

    def export(self, folder: Path, data: DataSettings) -> None:
        """Write the model as an ordinary checkpoint; see `save_model`."""
        self._call("export", folder.absolute(), data)

    def memory(self) -> TrainingMemory:
        """Return what training takes of a rank's GPU, once all ranks have loaded their part."""
        return self._call("memory")[0]

    def check(self) -> None:
        """Look whether all ranks are there, without waiting for one that is busy.

        Raises:
            RankLostError: One is gone.
        """
        asked = [rank.alive.remote() for rank in self._ranks]
        collect(ray.wait(asked, num_returns=len(asked), timeout=1.0)[0])

    def send(self, engines: list[Any], version: int, *, again: bool = False) -> bool:
        """Send the weights to engines, each between two steps.

        Args:
            engines: Their actors.
            version: Of the weights.
            again: Only if they are those that were sent last.

        Returns:
            Whether they were sent.

        Raises:
            RankLostError: A rank is lost, or an engine.
            Exception: Another one that a call raised; that may be because an engine is lost.
        """
        with self._calling:
            if again and self._changed:
                return False
            if self._hung:
                raise RankLostError("ranks wait for an engine that has died")
            self._changed = False
            connect, self._met = engines != self._met, []
            before = [rank.gpu.remote() for rank in self._ranks]  # answered when the ranks come to the transfer
            calls = [rank.send.remote(engines, version, connect) for rank in self._ranks]
        everybody = [*self._ranks, *engines]
        try:
            collect(before, everybody, timeout=self._timeout)
            collect(calls, everybody, timeout=self._timeout, limit=self._timeout)
        except Exception:
            ended, _ = ray.wait(calls, num_returns=len(calls), timeout=_LAST_WORDS)
            self._hung = len(ended) < len(calls)
            raise
        self._met = engines
        return True

    def _call(self, method: str, *arguments: Any, changes: bool = False) -> list[Any]:
        if self._stuck:
            raise UserError("the ranks are no longer in step: an earlier call has failed on some of them alone")
        with self._calling:
            self._changed = self._changed or changes
            calls = [getattr(rank, method).remote(*arguments) for rank in self._ranks]
        return self._collect(calls)

    def _collect(self, calls: Sequence[Any]) -> list[Any]:
        try:
            return collect(calls, self._ranks, timeout=self._timeout)
        except (UserError, OSError):  # after which a run still saves its model
            self._stuck = len(ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]) < len(calls)
            raise


class RankWriting:
    """A checkpoint that ranks are writing; see `training.parts.Writing`."""

    def __init__(self, ranks: Sequence[Any]) -> None:
        self._ranks, self._asked = ranks, list[Any]()

    def done(self) -> bool:
        """Whether all ranks have written their part. Raises: RankLostError: One is gone; what a rank raised."""
        self._asked = self._asked or [rank.saved.remote() for rank in self._ranks]
        answered, silent = ray.wait(self._asked, num_returns=len(self._asked), timeout=0)
        answers = collect(answered)
        if silent:
            return False
        self._asked = []
        return all(answers)


class RankReference:
    """The reference model, as the driver sees it."""

    def __init__(self, ranks: PolicyRanks) -> None:
        self._ranks = ranks

    def logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return the log-probabilities of each group under the frozen starting model."""
        return self._ranks.reference_logprobs(groups)
