"""A run's parts, started on Ray: what `training.parts` starts in one process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from observe_r1.cluster.placement import Seats, count_seats
from observe_r1.cluster.ranks import PolicyRanks, RankReference
from observe_r1.cluster.sampling import EngineProcesses, HandedWeights
from observe_r1.config import TrainSettings
from observe_r1.errors import UserError
from observe_r1.model.device import choose_device
from observe_r1.model.processor import load_processor
from observe_r1.training.parts import Parts


@contextmanager
def start_on_ray(settings: TrainSettings, now: Callable[[str], None]) -> Iterator[Parts]:
    """Start ranks and engines on the Ray that is open, and end them after the block.

    Args:
        settings: Of the run; `cluster.gpus` are waited for.
        now: Told what is being started.

    Raises:
        UserError: The GPUs do not come within `cluster.timeout` or do not suit the layout, or a rank or engine cannot
            start.
        RankLostError: A process died while it started.
    """
    device = choose_device(settings.model.device).type
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"device": device})})
    _check(settings, device)
    cluster = settings.cluster
    processor = load_processor(settings.model)
    counts = count_seats(cluster)
    seats = Seats(counts, device, cluster.timeout, now)
    try:
        parts = f"{counted(counts.ranks, 'policy rank')} and {counted(counts.engines, 'engine')}"
        now(f"starting {parts}")
        ranks = PolicyRanks(settings, seats)
        engines = EngineProcesses(settings, seats, ranks.gpus)
        name = ranks.ready()
        now("waiting for the engines")
        engines.ready()
        line = f"{counts.seats} × {name} on {counted(seats.machines, 'machine')}: {parts}, {cluster.layout}"
        line += f", {settings.model.dtype}"
        yield Parts(
            policy=ranks,
            reference=RankReference(ranks) if settings.objective.kl_coef else None,
            engine=engines,
            sync=HandedWeights(ranks, engines),
            processor=processor,
            device=device,
            line=line,
        )
    finally:
        seats.close()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `2 engines`."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _check(settings: TrainSettings, device: str) -> None:
    """Refuse what a cluster cannot do.

    Raises:
        UserError: The settings ask for it.
    """
    if settings.cluster.tensor_parallel > 1:
        raise UserError(
            f"cluster.tensor_parallel = {settings.cluster.tensor_parallel}: an engine cannot be split over several "
            "GPUs yet: set it to 1"
        )
    if settings.model.lora_rank or settings.model.quantize != "none":
        raise UserError("model.lora_rank and model.quantize are not possible with cluster: leave cluster out, or these")
    if settings.rollout.engine == "vllm" and device == "cuda" and settings.cluster.layout == "colocated":
        raise UserError("rollout.engine = 'vllm' is not possible with cluster.layout: colocated: set it to apart")
