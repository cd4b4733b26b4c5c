"""Weights over gloo: vLLM's weight transfer if there are no GPUs, or the engine is not vLLM.

Each rank sends the rows that it holds straight to every engine's worker, which puts a weight together from them:
nothing is gathered on a rank. Ranks and workers form a process group of their own, apart from torch's default one.

Memory beside the model, B the bucket's bytes or, if that is more, those of the largest weight, all in the type sent:

    rank      its rows of one bucket, at most B; nothing if they are on the CPU and in that type already
    worker    one bucket, at most B, and what loading takes (vLLM: the weights of one module, twice)

This file does without vLLM, whose import takes seconds and half a gigabyte: ranks and embedded engines need none of it.
"""

import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from math import prod
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroupGloo, TCPStore

Rows = tuple[int, int, int]
"""A rank and the rows that it sends, first and behind the last."""


@dataclass(frozen=True)
class Weight:
    """One weight as it is sent."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    rows: tuple[Rows, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize


class ShardSource(Protocol):
    """What a rank sends."""

    def metadata(self) -> Sequence[Weight]:
        """Return all weights of the model, the same on every rank."""
        ...

    def shards(self) -> Iterator[Tensor]:
        """Yield this rank's rows of each weight in turn, on the CPU; all ranks iterate together."""
        ...


class Receivers(Protocol):
    """The engines, as vLLM's `VLLMWeightSyncClient` has them."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let all workers join the group."""
        ...

    def start_weight_update(self) -> None:
        """Begin an update."""
        ...

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive all weights."""
        ...

    def finish_weight_update(self) -> None:
        """End an update: nothing that old weights computed is left."""
        ...


@dataclass(frozen=True)
class GlooTrainerInit:
    """What a rank knows before it meets the engines."""

    backend: ClassVar[str] = "gloo"
    rank: int
    workers: int
    """In all engines together."""
    host: str
    """Address of rank 0's machine, on which it listens."""
    bucket: int
    """Bytes."""
    timeout: float
    """Seconds."""


@dataclass
class GlooInit:
    """What a worker is told."""

    host: str
    port: int
    rank_offset: int
    """Its rank in the group, less its number among its engine's workers."""
    world_size: int
    bucket: int
    timeout: float


class GlooTrainer:
    """A rank's side; has the methods of vLLM's `TrainerWeightTransferEngine`, and is made on all ranks together."""

    def __init__(self, info: GlooTrainerInit, group: ProcessGroupGloo, client: Receivers, source: ShardSource) -> None:
        self.info, self.group, self.client, self.source = info, group, client, source

    @classmethod
    def trainer_init(cls, init_info: GlooTrainerInit, *, client: Receivers, source: ShardSource) -> Self:
        """Meet the engines; only rank 0 calls `client`."""
        ranks = distributed.get_world_size()
        size = ranks + init_info.workers
        places: list[int] = [0]
        listener = None
        if init_info.rank == 0:
            listener = socket.create_server((init_info.host, 0))
            places = [listener.getsockname()[1]]
        distributed.broadcast_object_list(places, src=0)
        told = GlooInit(init_info.host, places[0], ranks, size, init_info.bucket, init_info.timeout)
        with ThreadPoolExecutor(1) as thread:
            joining = None
            if init_info.rank == 0:
                joining = thread.submit(client.init_weight_transfer_engine, asdict(told))
            group = join(told, init_info.rank, listener, joining)
            if joining is not None:
                joining.result()
        return cls(init_info, group, client, source)

    def send_weights(self) -> None:
        """Send all weights; all ranks together. After an error the group is closed: make another."""
        fault: Exception | None = None
        if self.info.rank == 0:
            try:
                self.client.start_weight_update()
            except Exception as error:  # noqa: BLE001  (raised below, once the other ranks know, who would wait for it)
                fault = error
        begun = [fault is None]
        distributed.broadcast_object_list(begun, src=0)
        if not begun[0]:
            self.shutdown()
            raise fault or RuntimeError("the engines cannot take weights: the first rank says why")
        if self.info.rank != 0:
            self._send()
            return
        rows = [
            {"name": w.name, "dtype": str(w.dtype), "shape": w.shape, "rows": w.rows} for w in self.source.metadata()
        ]
        with ThreadPoolExecutor(1) as thread:
            receiving = thread.submit(self.client.update_weights, {"weights": rows})
            try:
                self._send()
            except RuntimeError:
                receiving.result()  # what went wrong at the engine is the reason
                raise
            receiving.result()
        self.client.finish_weight_update()

    def _send(self) -> None:
        ranks = distributed.get_world_size()
        group: Any = self.group  # torch's stubs lack `send` and `recv`
        shards, tag = self.source.shards(), 0
        try:
            for batch in buckets(self.source.metadata(), self.info.bucket):
                underway = []
                for weight in batch:
                    shard = next(shards)
                    if any(rank == self.info.rank and first < last for rank, first, last in weight.rows):
                        piece = _bytes(shard.contiguous())
                        workers = range(ranks, ranks + self.info.workers)
                        underway += [(piece, group.send([piece], worker, tag)) for worker in workers]
                    tag += 1
                for _, work in underway:
                    work.wait()
        except BaseException:
            self.shutdown()
            raise

    def shutdown(self) -> None:
        """Leave the group, so that nobody waits for this rank."""
        self.group.abort()


class GlooReceiver:
    """A worker's side.

    Args:
        info: From rank 0.
        number: Of this worker among its engine's.
    """

    def __init__(self, info: GlooInit, number: int = 0) -> None:
        self.bucket = info.bucket
        self.group = join(info, info.rank_offset + number)

    def receive(self, weights: Sequence[dict[str, Any]]) -> Iterator[list[tuple[str, Tensor]]]:
        """Yield the weights by their names, bucket by bucket; let one go before the next is asked for.

        Args:
            weights: From rank 0's `update_weights`.
        """
        described = [
            Weight(w["name"], getattr(torch, w["dtype"].removeprefix("torch.")), tuple(w["shape"]), tuple(w["rows"]))
            for w in weights
        ]
        tag = 0
        group: Any = self.group  # torch's stubs lack `send` and `recv`
        try:
            for batch in buckets(described, self.bucket):
                received, underway = [], []
                for weight in batch:
                    tensor = torch.empty(weight.shape, dtype=weight.dtype)
                    received.append((weight.name, tensor))
                    for rank, first, last in weight.rows:
                        if first < last:
                            underway.append(group.recv([_bytes(tensor[first:last])], rank, tag))
                    tag += 1
                for work in underway:
                    work.wait()
                yield received
                del received, tensor
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the group, so that nobody waits for this worker."""
        self.group.abort()


def join(
    info: GlooInit, rank: int, listener: socket.socket | None = None, others: "Future[None] | None" = None
) -> ProcessGroupGloo:
    """Join the group of ranks and workers.

    Args:
        info: Where rank 0 listens.
        rank: Of this process.
        listener: At rank 0, its socket.
        others: At rank 0, the call that lets the workers join: if it fails, so does everybody's joining.
    """
    patience = timedelta(seconds=info.timeout)
    how: dict[str, Any] = {"timeout": patience, "wait_for_workers": False, "use_libuv": False}
    if listener is not None:  # of our own, because torch's would listen on every interface
        how["master_listen_fd"] = listener.detach()
    store = TCPStore(info.host, info.port, info.world_size, listener is not None, **how)
    store.set(f"here/{rank}", "1")
    if listener is not None:
        missing = [f"here/{each}" for each in range(info.world_size)]
        until = time.monotonic() + info.timeout
        while not store.check(missing):
            if time.monotonic() > until or (others is not None and others.done() and others.exception()):
                store.set("all", "no")
                if others is not None and others.done():
                    others.result()
                raise TimeoutError(
                    f"engines and ranks did not meet within {info.timeout:.0f} seconds (cluster.timeout)"
                )
            time.sleep(0.01)
        store.set("all", "yes")
    if store.get("all") != b"yes":
        raise RuntimeError("an engine or rank did not come to take part in the weights' transfer")
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = patience
    options._devices = [ProcessGroupGloo.create_device(hostname=_own_address(info.host), lazy_init=False)]
    return ProcessGroupGloo(store, rank, info.world_size, options)


def _own_address(host: str) -> str:
    """Return this machine's address on the way to `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 1))
        return str(probe.getsockname()[0])


def buckets(weights: Sequence[Weight], size: int) -> Iterator[list[Weight]]:
    """Yield `weights` in order, as many at once as fit in `size` bytes; one that is larger comes alone."""
    batch: list[Weight] = []
    for weight in weights:
        if batch and sum(each.size for each in batch) + weight.size > size:
            yield batch
            batch = []
        batch.append(weight)
    if batch:
        yield batch


def _bytes(tensor: Tensor) -> Tensor:
    """Return contiguous memory as bytes: gloo does not know every type."""
    return tensor.view(-1).view(torch.uint8)
