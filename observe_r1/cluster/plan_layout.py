"""Who does what on so many GPUs: the layout that a plan reckons with."""

from dataclasses import dataclass

from observe_r1.config.plan import PlanSettings
from observe_r1.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Who does what."""

    gpus: int
    ranks: int
    """GPUs that train."""
    shard: int
    """Of these, those that share one copy of the weights."""
    engines: int
    tensor_parallel: int
    colocated: bool


def layout_of(settings: PlanSettings, gpus: int) -> Layout:
    """Return how a run is laid out on `gpus` GPUs, by the rules of `ClusterSettings`.

    Raises:
        UserError: the settings do not divide.
    """
    cluster, together = settings.cluster, settings.cluster.layout == "colocated"
    parallel = cluster.tensor_parallel
    if settings.rollout.engine != "vllm" and parallel > 1:
        raise UserError(f"cluster.tensor_parallel = {parallel} needs rollout.engine: vllm")
    engines = cluster.engines if cluster.engines and gpus == cluster.gpus else None
    engines = engines or max(1, (gpus if together else gpus // 2) // parallel)
    ranks = gpus if together else gpus - engines * parallel
    if engines * parallel > gpus or ranks < 1:
        raise UserError(f"{gpus} GPUs are too few for {engines} engines of {parallel}, and for training beside them")
    machine = settings.plan.gpus_per_machine
    shard = cluster.shard or (ranks if ranks % machine else machine)  # as `cluster.sharding` arranges them
    if shard > ranks or ranks % shard:
        raise UserError(f"cluster.shard = {shard} does not divide the {ranks} GPUs that train")
    return Layout(gpus, ranks, shard, engines, parallel, together)
