"""The policy's ranks: Ray actors around `ShardedPolicy`, and the driver's side, which calls all of them together.

A batch is put into Ray's store once and read by every rank of a machine from there. All ranks return the same metrics
and log-probabilities, of which the first one's are taken.
"""

import fcntl
import os
import socket
import struct
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import ray
import torch
from torch import Tensor, distributed

from observe_r1.cluster import RankLostError
from observe_r1.cluster.calls import collect
from observe_r1.cluster.carrying import carry_tensors
from observe_r1.cluster.placement import Seats
from observe_r1.cluster.sharded_policy import ShardedLogprobModel, ShardedPolicy, rank_memory
from observe_r1.cluster.weights import ActorReceivers, WeightSender, backend
from observe_r1.config import DataSettings, TrainSettings
from observe_r1.errors import UserError
from observe_r1.model.device import compute_dtype
from observe_r1.model.loading import load_model
from observe_r1.model.shared_prefix import compile_ahead
from observe_r1.policy.state import load_state, save_state
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.records import Group, TrainingBatch
from observe_r1.rollout.engine import TrainingMemory, unheard

_BESIDE = "beside"
"""Ray's group of the calls that a rank answers beside its work."""
_LAST_WORDS = 30.0
"""Seconds in which ranks end a transfer of weights that has failed on one of them, or to an engine."""


class PolicyRank:
    """One rank's process.

    Args:
        settings: Of the run; `model.device` names the device.
        rank: Its number.
        ranks: How many there are.
        per_machine: On each machine; None if machines have unlike numbers.
    """

    def __init__(self, settings: TrainSettings, rank: int, ranks: int, per_machine: int | None) -> None:
        carry_tensors()
        self.settings = settings
        self.rank, self.ranks, self.per_machine = rank, ranks, per_machine
        self.reference: LogprobModel | None = None
        self.sender: WeightSender | None = None
        self._listener: socket.socket | None = None

    @ray.method(concurrency_group=_BESIDE)
    def alive(self) -> None:
        """Return at once, whatever else this rank is doing."""

    def gpu(self) -> str:
        """Return the GPU that Ray has given it, as CUDA counts them on this machine; empty without one."""
        return os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def address(self) -> str:
        """Return this machine's address in the cluster."""
        return str(ray.util.get_node_ip_address())

    def sees(self, file: Path, content: bytes) -> bool:
        """Whether `file` is there, with this content."""
        try:
            return file.read_bytes() == content
        except OSError:
            return False

    def listen(self, address: str) -> int:
        """Open the port at which all ranks meet, on the interface of `address` alone, and return its number."""
        self._listener = socket.create_server((address, 0))
        return int(self._listener.getsockname()[1])

    def start(self, meeting: tuple[str, int], address: str) -> str:
        """Meet the other ranks, load the model and keep this rank's part of it.

        Args:
            meeting: Address and port of the first rank.
            address: Of this machine, on the network that connects the ranks.

        Returns:
            The device's name.

        Raises:
            UserError: As `load_model` and `ShardedPolicy`.
        """
        settings, cluster = self.settings, self.settings.cluster
        self.host = meeting[0]
        torch.manual_seed(settings.run.seed)
        torch.set_num_threads(settings.run.threads or max(1, (os.cpu_count() or 1) // (self.per_machine or self.ranks)))
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface(address))
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={_interface(address)}")  # "eth1" alone would mean eth10, too
        limit = timedelta(seconds=cluster.timeout)
        listener = self._listener.detach() if self._listener else None
        store = distributed.TCPStore(
            *meeting, self.ranks, is_master=self.rank == 0, timeout=limit, master_listen_fd=listener
        )
        backend = "gloo" if settings.model.device == "cpu" else "cpu:gloo,cuda:nccl"
        distributed.init_process_group(backend, store=store, rank=self.rank, world_size=self.ranks, timeout=limit)
        temperature, dtype = settings.rollout.temperature, compute_dtype(settings.model)
        # Every rank holds quantized weights whole: their scales belong to the whole.
        whole = settings.model.quantize != "none"
        vlm = load_model(settings.model, weights=whole, share=(self.rank, self.ranks))
        compile_ahead(vlm.model, settings.optimizer.tokens_per_pack, dtype, vlm.device, unheard)
        self.policy = ShardedPolicy(
            vlm,
            settings.optimizer,
            settings.objective,
            cluster,
            temperature=temperature,
            dtype=dtype,
            per_machine=self.per_machine,
        )
        if settings.objective.kl_coef and settings.model.lora_rank:
            self.reference = self.policy.base()
        elif settings.objective.kl_coef:
            frozen = load_model(settings.model, frozen=True, weights=False, share=(self.rank, self.ranks))
            self.reference = ShardedLogprobModel(
                frozen, settings.optimizer, cluster, self.policy.mesh, temperature=temperature, dtype=dtype
            )
        device = self.policy.vlm.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"

    def update(self, batch: TrainingBatch) -> dict[str, float]:
        """Take one optimizer step; see `Policy.update`."""
        return self.policy.update(batch)

    def logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return the log-probabilities of each group; see `LogprobModel.logprobs`."""
        return self.policy.logprobs(groups)

    def reference_logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return those under the reference model."""
        assert self.reference is not None
        return self.reference.logprobs(groups)

    def save_state(self, folder: Path, copy: bool) -> None:
        """Begin to write this rank's part of weights and optimizer state."""
        self._writing = save_state(self.policy, folder, copy=copy)

    @ray.method(concurrency_group=_BESIDE)
    def saved(self) -> bool:
        """Whether what `save_state` began is written; asked beside this rank's work."""
        return self._writing.done()

    def load_state(self, folder: Path) -> None:
        """Read this rank's part of weights and optimizer state."""
        load_state(self.policy, folder)

    def export(self, folder: Path, data: DataSettings) -> None:
        """Write this rank's share of the model."""
        self.policy.export(folder, data)

    def memory(self) -> TrainingMemory:
        """Return what training takes of this rank's GPU, and give back what it does not hold."""
        torch.cuda.empty_cache()
        return rank_memory(self.policy, self.reference)

    def send(self, engines: Sequence[Any], version: int, connect: bool) -> None:
        """Send the weights to engines; see `WeightSender.send`.

        Args:
            engines: Their actors.
            version: Of the weights.
            connect: Meet the engines first: they are others than at the last call, or that failed.
        """
        torch.cuda.empty_cache()  # engines that share this GPU are about to wake up
        if connect:
            if self.sender is not None:
                self.sender.close()
            self.sender = None
            settings = self.settings
            name = backend(settings.rollout.engine, settings.cluster.layout, settings.model.device)
            width = settings.cluster.tensor_parallel
            self.receivers = ActorReceivers(engines, width)
            self.sender = WeightSender(
                self.policy.vlm.model,
                self.policy.dtype,
                name,
                self.receivers,
                width * len(engines),
                device=self.policy.vlm.device,
                host=self.host,
                timeout=settings.cluster.timeout,
            )
        assert self.sender is not None
        self.receivers.version = version
        self.sender.send()


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
        actor = ray.remote(concurrency_groups={_BESIDE: 1})(PolicyRank)  # type: ignore[call-overload]
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


def _interface(address: str) -> str:
    """Return the name of the network interface that has `address`: `lo`, `eth0` (SIOCGIFADDR of netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))[20:24]
            except OSError:
                continue  # it has no address
            if socket.inet_ntoa(found) == address:
                return name
    raise UserError(f"no network interface has the address {address} by which Ray knows this machine")
