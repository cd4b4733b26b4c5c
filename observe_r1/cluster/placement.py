"""Where a run's processes are: Ray, started for the run or joined, and a seat for every rank and engine.

A seat is a GPU, or on the CPU a process that stands for one. Ranks are numbered machine by machine. Under the layout
`colocated` engines sit on the seats of the ranks, which Ray counts once; under `apart` they have seats of their own.
"""

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from observe_r1.config import ClusterSettings
from observe_r1.config.cluster import EngineClusterSettings
from observe_r1.errors import UserError

_Cluster = TypeVar("_Cluster", bound=EngineClusterSettings)
_LOOPBACK = "127.0.0.1"
_STORE_SHARE = 0.1
"""Of the machine's memory, for what Ray carries between processes; pages that are not used take none."""
_LEAST_STORE = 200 << 20
_LOOK = 1.0
"""Seconds between two looks for a machine that is awaited."""
_PATIENCE = 10.0
"""Seconds in which Ray's head takes a connection."""


@contextmanager
def open_ray(cluster: EngineClusterSettings, name: str) -> Iterator[str]:
    """Join the Ray cluster of `cluster.address`, or start Ray on this machine; leave or stop it after the block.

    What is started listens on the loopback interface alone, but for a dashboard on `cluster.dashboard`. The block gets
    `cpu` or `cuda`, where ranks and engines compute; on the CPU as many seats are made as `cluster.gpus` asks for.

    Args:
        cluster: Of the run.
        name: `model.device`.

    Raises:
        UserError: No cluster answers at the address, this process uses Ray already, or there is no GPU, or one of which
            `auto` cannot know.
    """
    device = cluster_device(cluster, name)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray._private import ray_constants

    if ray.is_initialized():
        raise UserError("this Python process uses Ray already: call ray.shutdown() before a run with cluster")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    # Ray replaces this handler by one that exits at once; ours ends a run after its step.
    before = signal.getsignal(signal.SIGTERM)
    clustered = ray_constants.ENABLE_RAY_CLUSTER
    try:
        if cluster.address is not None:
            ray.init(address=cluster.address, **quiet)
        else:
            # False lets Ray take 127.0.0.1 for this machine's address, as it does if it supports one machine only;
            # with any other address it listens on every interface.
            ray_constants.ENABLE_RAY_CLUSTER = False
            os.environ.setdefault("RAY_enable_worker_prestart", "0")  # idle Python processes that nobody asked for
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, 2 * (cluster.gpus or 1)),
                num_gpus=0 if device == "cpu" else None,
                include_dashboard=cluster.dashboard is not None,
                dashboard_host=cluster.dashboard or _LOOPBACK,
                object_store_memory=_store_bytes(),
                **quiet,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        if cluster.address is None:
            raise
        raise UserError(
            f"cluster.address = {cluster.address!r}: no Ray cluster answers there ({str(error).splitlines()[0]}): "
            "start one with `ray start --head`, or leave the address out"
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clustered
        signal.signal(signal.SIGTERM, before)
    try:
        from observe_r1.cluster.carrying import carry_tensors  # with torch and Ray

        carry_tensors()
        if name == "auto" and device == "cpu" and (gpus := seats_of_ray("GPU")):
            raise UserError(
                f"model.device = 'auto': this machine has no GPU, and Ray has {gpus}: give --model.device cuda and "
                "--model.dtype bfloat16, or --model.device cpu"
            )
        yield device
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def cluster_device(cluster: EngineClusterSettings, name: str) -> str:
    """Return where `model.device` has ranks and engines compute, `cpu` or `cuda`.

    A machine that only drives a cluster needs no GPU: whether the others have some is asked of Ray (`take_stock`).

    Raises:
        UserError: As `choose_device`.
    """
    from observe_r1.model.device import choose_device  # with torch

    return name if name == "cuda" and cluster.address is not None else choose_device(name).type


def _store_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(_LEAST_STORE, int(_STORE_SHARE * memory))


@dataclass(frozen=True)
class Counts:
    """How many seats a run has."""

    ranks: int
    engines: int
    tensor_parallel: int
    """Seats of one engine."""
    apart: bool

    @property
    def seats(self) -> int:
        """Seats in all."""
        return self.ranks + (self.engines * self.tensor_parallel if self.apart else 0)


def take_stock(cluster: _Cluster, device: str) -> _Cluster:
    """Return `cluster` with the number of seats that the run has from now on, whatever machines come and go.

    Args:
        cluster: Of the run; without `gpus` it takes all seats that Ray has.
        device: `cpu` or `cuda`.

    Raises:
        UserError: Ray has fewer than asked for, or none.
    """
    available = seats_of_ray("CPU" if device == "cpu" else "GPU")
    if (cluster.gpus or 1) > available:
        raise UserError(f"cluster.gpus = {cluster.gpus or 1}: Ray has {available}: ask for fewer, or add machines")
    return cluster.model_copy(update={"gpus": cluster.gpus or available})


def count_seats(cluster: ClusterSettings) -> Counts:
    """Share `cluster.gpus` seats out to ranks and engines.

    Raises:
        UserError: There are too few for the layout.
    """
    seats = cluster.gpus or 0
    width = cluster.tensor_parallel
    if cluster.layout == "colocated":
        engines = cluster.engines or seats // width
        if engines * width > seats or engines == 0:
            raise UserError(
                f"cluster.engines = {max(engines, 1)} of cluster.tensor_parallel = {width} need "
                f"{max(engines, 1) * width} GPUs, there are {seats}: ask for fewer engines, or narrower ones"
            )
        return Counts(seats, engines, width, apart=False)
    engines = cluster.engines or max(1, seats // 2 // width)
    ranks = seats - engines * width
    if ranks < 1:
        raise UserError(
            f"cluster.layout = 'apart': {engines} engines of {width} take all of the {seats} GPUs, and none is left "
            "for the policy: raise cluster.gpus or lower cluster.engines"
        )
    return Counts(ranks, engines, width, apart=True)


class Seats:
    """The seats of one start of a run: a placement group of Ray's; a context manager that gives them back.

    Args:
        counts: How many.
        device: `cpu` or `cuda`.
        patience: Seconds to wait for seats that are taken, or that left with their machine.
        now: Told what is waited for.

    Raises:
        UserError: They did not come within `patience`.
    """

    def __init__(self, counts: Counts, device: str, patience: float, now: Callable[[str], None]) -> None:
        from ray.util import placement_group, placement_group_table

        self.counts = counts
        self.kind = "CPU" if device == "cpu" else "GPU"
        extra = {} if device == "cpu" else {"CPU": 1}
        single = [{self.kind: 1} | extra for _ in range(counts.ranks)]
        wide = [{self.kind: counts.tensor_parallel} | extra for _ in range(counts.engines)] if counts.apart else []
        self._group = placement_group(single + wide, strategy="PACK")
        try:
            self._wait(patience, now)
        except BaseException:
            self.close()
            raise
        nodes = placement_group_table(self._group)["bundles_to_node_id"]
        self._ranks = sorted(range(counts.ranks), key=lambda bundle: (nodes[bundle], bundle))
        """The bundle of each rank."""
        self._machine = [nodes[bundle] for bundle in self._ranks]
        self.machines = len(set(nodes.values()))
        per_machine = set(Counter(self._machine).values())
        self.per_machine = per_machine.pop() if len(per_machine) == 1 else None
        """Ranks on each machine; None if machines have unlike numbers."""

    def _wait(self, patience: float, now: Callable[[str], None]) -> None:
        until = time.monotonic() + patience
        while not self._group.wait(timeout_seconds=_LOOK):
            there, noun = seats_of_ray(self.kind), "GPUs" if self.kind == "GPU" else "processes"
            missing = f"{self.counts.seats} {noun}: Ray has {there}"
            if time.monotonic() > until:
                raise UserError(
                    f"waited {patience:.0f} s (cluster.timeout) for {missing}: add machines, or ask for fewer"
                )
            now(f"waiting for {missing}{', and some of them are taken' if there >= self.counts.seats else ''}")

    def rank(self, number: int) -> dict[str, Any]:
        """Return the options of a rank's actor."""
        return {"num_cpus": 1, "num_gpus": int(self.kind == "GPU")} | self._in(self._ranks[number])

    def engine(self, number: int, gpus: list[str]) -> dict[str, Any]:
        """Return the options of an engine's actor.

        Args:
            number: Of the engine.
            gpus: Under `colocated`, the GPUs of all ranks in their order, as CUDA counts them on their machines.

        Raises:
            UserError: Its GPUs are not on one machine.
        """
        width = self.counts.tensor_parallel
        if self.counts.apart:
            count = {"num_cpus": 1, "num_gpus": width} if self.kind == "GPU" else {"num_cpus": width}
            return count | self._in(self.counts.ranks + number)
        own = range(number * width, (number + 1) * width)
        if len({self._machine[rank] for rank in own}) > 1:
            raise UserError(
                f"cluster.tensor_parallel = {width}: an engine's GPUs would be on several machines: lower it"
            )
        options = {"num_cpus": 0, "num_gpus": 0} | self._in(self._ranks[own[0]])
        if self.kind == "GPU":  # Ray has counted them once, for the ranks
            seen = {"CUDA_VISIBLE_DEVICES": ",".join(gpus[rank] for rank in own)}
            options["runtime_env"] = {"env_vars": seen | {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
        return options

    def _in(self, bundle: int) -> dict[str, Any]:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, bundle)}

    def close(self) -> None:
        """Give the seats back; what still runs on them is killed."""
        from ray.util import remove_placement_group

        if ray_answers():
            remove_placement_group(self._group)


def ray_answers() -> bool:
    """Whether Ray's head is there. Without it a call of Ray's would wait a minute, and then end this process."""
    import ray

    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


def seats_of_ray(kind: str) -> int:
    """Return how many of `kind`, `CPU` or `GPU`, all machines of the cluster have, taken or not."""
    import ray

    return int(ray.cluster_resources().get(kind, 0))
