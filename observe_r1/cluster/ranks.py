"""The policy's ranks: Ray actors around `ShardedPolicy`, and the driver's side, which calls all of them together.

A batch is put into Ray's store once and read by every rank of a machine from there. All ranks return the same metrics
and log-probabilities, of which the first one's are taken.
"""

import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from observe_r1.cluster import RankLostError
from observe_r1.cluster.placement import Seats
from observe_r1.cluster.sharded_policy import ShardedLogprobModel, ShardedPolicy
from observe_r1.config import DataSettings, TrainSettings
from observe_r1.errors import UserError
from observe_r1.model.adapters import published_weights
from observe_r1.model.device import compute_dtype
from observe_r1.model.loading import load_model
from observe_r1.policy.state import load_state, save_state
from observe_r1.records import Group, TrainingBatch

_BUCKET = 256 << 20
"""Bytes of weights that are handed over at once."""
_LAST_WORDS = 20.0
"""Seconds in which a rank that died is known to have died, after others have lost their connection to it."""
_LOST = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe", "gloo")
"""In what torch raises on ranks that wait for one that is gone or hangs."""


class PolicyRank:
    """One rank's process.

    Args:
        settings: Of the run; `model.device` names the device.
        rank: Its number.
        ranks: How many there are.
        per_machine: On each machine; None where machines have unlike numbers.
    """

    def __init__(self, settings: TrainSettings, rank: int, ranks: int, per_machine: int | None) -> None:
        self.settings = settings
        self.rank, self.ranks, self.per_machine = rank, ranks, per_machine
        self._listener: socket.socket | None = None

    def gpu(self) -> str:
        """Return the GPU that Ray has given it, as CUDA counts them on this machine; empty without one."""
        return os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def address(self) -> str:
        """Return this machine's address in the cluster."""
        return str(ray.util.get_node_ip_address())

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
        torch.manual_seed(settings.run.seed)
        torch.set_num_threads(settings.run.threads or max(1, (os.cpu_count() or 1) // (self.per_machine or self.ranks)))
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, _interface(address))
        limit = timedelta(seconds=cluster.timeout)
        listener = self._listener.detach() if self._listener else None
        store = distributed.TCPStore(
            *meeting, self.ranks, is_master=self.rank == 0, timeout=limit, master_listen_fd=listener
        )
        backend = "gloo" if settings.model.device == "cpu" else "cpu:gloo,cuda:nccl"
        distributed.init_process_group(backend, store=store, rank=self.rank, world_size=self.ranks, timeout=limit)
        temperature, dtype = settings.rollout.temperature, compute_dtype(settings.model)
        self.policy = ShardedPolicy(
            # Every rank holds quantized weights whole: their scales belong to the whole.
            load_model(settings.model, weights=settings.model.quantize != "none"),
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
            frozen, mesh = load_model(settings.model, frozen=True, weights=False), self.policy.mesh
            self.reference = ShardedLogprobModel(
                frozen, settings.optimizer, cluster, mesh, temperature=temperature, dtype=dtype
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
        return self.reference.logprobs(groups)

    def save_state(self, folder: Path) -> None:
        """Write this rank's part of weights and optimizer state."""
        save_state(self.policy, folder)

    def load_state(self, folder: Path) -> None:
        """Read this rank's part of weights and optimizer state."""
        load_state(self.policy, folder)

    def export(self, folder: Path, data: DataSettings) -> None:
        """Write this rank's share of the model."""
        self.policy.export(folder, data)

    def buckets(self) -> int:
        """Return how many calls of `bucket` bring all weights."""
        self._plan: list[list[str]] = [[]]
        size = 0
        for name, weight in published_weights(self.policy.vlm.model):
            if size and size + weight.nbytes > _BUCKET:
                self._plan.append([])
                size = 0
            self._plan[-1].append(name)
            size += weight.nbytes
        return len(self._plan)

    def bucket(self, number: int) -> list[tuple[str, Tensor]]:
        """Gather some of the weights, in the compute type; the first rank returns them."""
        wanted, found = set(self._plan[number]), []
        for name, weight in published_weights(self.policy.vlm.model):
            if name in wanted:
                whole = _whole(weight)
                if self.rank == 0:
                    found.append((name, whole.to("cpu", self.policy.dtype)))
        return found


class PolicyRanks:
    """The policy, as the driver sees it: what the loop, the recorder and the checkpoints ask of one.

    Args:
        settings: Of the run; `model.device` names the device of the ranks.
        seats: Where they are.
    """

    def __init__(self, settings: TrainSettings, seats: Seats) -> None:
        ranks, actor = seats.counts.ranks, ray.remote(PolicyRank)
        arguments = ray.put(settings)
        self._ranks: list[Any] = [
            actor.options(**seats.rank(rank)).remote(arguments, rank, ranks, seats.per_machine) for rank in range(ranks)
        ]
        addresses = self._call("address")
        if len(set(addresses)) == 1:
            addresses = ["127.0.0.1"] * ranks
        port = collect([self._ranks[0].listen.remote(addresses[0])])[0]
        self.gpus = self._call("gpu")
        """Of each rank, as CUDA counts them on its machine."""
        meeting = addresses[0], port
        self._started = [
            rank.start.remote(meeting, address) for rank, address in zip(self._ranks, addresses, strict=True)
        ]

    def ready(self) -> str:
        """Wait until all ranks have loaded their part; return the name of the device that they compute on."""
        return collect(self._started)[0]

    def update(self, batch: TrainingBatch) -> dict[str, float]:
        """Take one optimizer step; see `Policy.update`."""
        return self._call("update", ray.put(batch))[0]

    def logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return the log-probabilities of each group; see `LogprobModel.logprobs`."""
        return self._call("logprobs", ray.put(groups))[0]

    def reference_logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return those under the reference model."""
        return self._call("reference_logprobs", ray.put(groups))[0]

    def save_state(self, folder: Path) -> None:
        """Write weights and optimizer state, each rank its part, into a folder that all machines share."""
        self._call("save_state", folder)

    def load_state(self, folder: Path) -> None:
        """Read weights and optimizer state, which any number of ranks has written."""
        self._call("load_state", folder)

    def export(self, folder: Path, data: DataSettings) -> None:
        """Write the model as an ordinary checkpoint; see `save_model`."""
        self._call("export", folder.absolute(), data)

    def buckets(self) -> Iterator[Any]:
        """Yield a reference to each part of the weights, which is being gathered."""
        for number in range(self._call("buckets")[0]):
            first, *others = [rank.bucket.remote(number) for rank in self._ranks]
            collect([first, *others], fetch=False)
            yield first

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        return collect([getattr(rank, method).remote(*arguments) for rank in self._ranks])


class RankReference:
    """The reference model, as the driver sees it."""

    def __init__(self, ranks: PolicyRanks) -> None:
        self._ranks = ranks

    def logprobs(self, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        """Return the log-probabilities of each group under the frozen starting model."""
        return self._ranks.reference_logprobs(groups)


def collect(references: Sequence[Any], *, fetch: bool = True) -> list[Any]:
    """Wait for calls that were made together, and return their results in order.

    Args:
        references: One per call.
        fetch: Whether the results are wanted here, too; without, the list is empty.

    Raises:
        RankLostError: A process died, or waited in vain for another.
        UserError: A call raised it.
        RayTaskError: A call raised another error; it has the traceback of its process.
    """
    waiting, failed = list(references), None
    until = None
    while waiting and (until is None or time.monotonic() < until):
        done, waiting = ray.wait(waiting, timeout=0.2, fetch_local=fetch)
        for reference in done:
            try:
                ray.get(reference)
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, (UserError, OSError)) and not isinstance(cause, ConnectionError):
                    raise cause from None
                if not any(words in str(error) for words in _LOST):
                    raise
                failed = failed or RankLostError(f"a process waited in vain for another: {_last_line(error)}")
                until = until or time.monotonic() + _LAST_WORDS
            except RayActorError as error:
                raise RankLostError(f"a process has died: {_last_line(error)}") from error
            except RayError as error:
                raise RankLostError(_last_line(error)) from error
    if failed:
        raise failed
    return ray.get(list(references)) if fetch else []


def _whole(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()[:200]


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
