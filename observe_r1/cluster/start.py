"""A run's parts, started on Ray: what `training.parts` starts in one process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from observe_r1.cluster import RankLostError
from observe_r1.cluster.engines import EnginePool
from observe_r1.cluster.placement import Seats, cluster_device, count_seats
from observe_r1.cluster.ranks import PolicyRanks, RankReference
from observe_r1.cluster.weights import backend, vllm_arguments
from observe_r1.config import TrainSettings
from observe_r1.errors import UserError
from observe_r1.model.processor import load_processor
from observe_r1.training.parts import Parts


@contextmanager
def start_on_ray(
    settings: TrainSettings, now: Callable[[str], None], note: Callable[[str], None], stopping: Callable[[], bool]
) -> Iterator[Parts]:
    """Start ranks and engines on the Ray that is open, and end them after the block.

    Args:
        settings: Of the run; `cluster.gpus` are waited for.
        now: Told what is being started.
        note: Told in one line of every engine that starts again, and how a GPU's memory is shared out.
        stopping: Whether the run was asked to stop: then no engine starts again, for Ray may be ending, too.

    Raises:
        UserError: The GPUs do not come within `cluster.timeout` or do not suit the layout, or a rank or engine cannot
            start.
        RankLostError: A process died while it started.
    """
    device = cluster_device(settings.cluster, settings.model.device)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"device": device})})
    _check(settings)
    cluster = settings.cluster
    processor = load_processor(settings.model)
    counts = count_seats(cluster)
    seats, pool = Seats(counts, device, cluster.timeout, now), None
    try:
        parts = f"{counted(counts.ranks, 'policy rank')} and {counted(counts.engines, 'engine')}"
        now(f"starting {parts}")
        ranks = PolicyRanks(settings, seats)
        shares_gpus = device == "cuda" and not counts.apart
        if shares_gpus:
            ranks.ready()  # what they take of the memory is there before engines measure it
        pool = start_engines(settings, seats, ranks, note, stopping, shares_gpus=shares_gpus)
        name = ranks.ready()
        now("waiting for the engines")
        pool.ready()
        line = f"{counts.seats} × {name} on {counted(seats.machines, 'machine')}: {parts}, {cluster.layout}"
        line += f", {settings.model.dtype}"
        yield Parts(
            policy=ranks,
            reference=RankReference(ranks) if settings.objective.kl_coef else None,
            engine=pool,
            sync=ClusterWeights(ranks, pool, sleeps=shares_gpus),
            processor=processor,
            device=device,
            line=line,
        )
    finally:
        if pool is not None:
            pool.close()
        seats.close()


def start_engines(
    settings: TrainSettings,
    seats: Seats,
    ranks: PolicyRanks,
    note: Callable[[str], None],
    stopping: Callable[[], bool],
    *,
    shares_gpus: bool,
) -> EnginePool:
    """Start the engines.

    Args:
        settings: Of the run.
        seats: Where they are.
        ranks: Of the policy.
        note: As for `start_on_ray`.
        stopping: As for `start_on_ray`.
        shares_gpus: Whether they share GPUs with ranks.
    """
    model, rollout, cluster = settings.model, settings.rollout, settings.cluster

    def check() -> None:
        if stopping():
            raise RankLostError("a sampling engine is gone, and the run was asked to stop")
        ranks.check()

    if rollout.engine == "vllm":
        receiving = vllm_arguments(backend(rollout.engine, cluster.layout, model.device))
        rollout = rollout.model_copy(update={"vllm": {**rollout.vllm, **receiving}})
    return EnginePool(
        model,
        rollout,
        settings.data,
        options=[seats.engine(number, ranks.gpus) for number in range(seats.counts.engines)],
        training=ranks.memory if shares_gpus else lambda: None,
        threads=settings.run.threads or 1,
        gpus=cluster.tensor_parallel,
        restarts=cluster.restarts,
        note=note,
        check=check,
        timeout=cluster.timeout,
    )


class ClusterWeights:
    """Carries the weights from the ranks to the engines; see `WeightSync`.

    Args:
        ranks: Send them.
        pool: Of the engines.
        sleeps: Whether engines give their memory back while the policy trains on their GPUs.
    """

    def __init__(self, ranks: PolicyRanks, pool: EnginePool, *, sleeps: bool) -> None:
        self._ranks, self._pool, self._sleeps = ranks, pool, sleeps
        pool.renew = lambda engine: ranks.send([engine], pool.version, again=True)

    def publish(self, version: int) -> None:
        """Let all ranks send their part to all engines."""
        self._pool.publish(version, lambda engines: self._ranks.send(engines, version))

    def rest(self) -> None:
        """Put engines that share the policy's GPUs to sleep."""
        if self._sleeps:
            self._pool.sleep()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `2 engines`."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def check_split(gpus: int, engine: str) -> None:
    """Refuse to split what cannot be split.

    Raises:
        UserError: `engine` is not vLLM, and is to take several `gpus`.
    """
    if gpus > 1 and engine != "vllm":
        raise UserError(
            f"cluster.tensor_parallel = {gpus}: only vLLM splits a model over several GPUs: set rollout.engine to "
            "'vllm', or this to 1"
        )


def _check(settings: TrainSettings) -> None:
    """Refuse what a cluster cannot do.

    Raises:
        UserError: The settings ask for it.
    """
    check_split(settings.cluster.tensor_parallel, settings.rollout.engine)
    for name in vllm_arguments("gloo").keys() & settings.rollout.vllm.keys():
        raise UserError(f"rollout.vllm: {name} is not possible with cluster, which sets it: leave it out")
