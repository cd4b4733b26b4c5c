"""The section `cluster`: how a run is spread over many GPUs and machines."""

from typing import Literal, Self

from pydantic import Field, model_validator

from observe_r1.config.section import NonEmptyText, Section


class EngineClusterSettings(Section):
    """GPUs that sample, through Ray. Without `gpus` and `address` everything is one process."""

    gpus: int | None = Field(None, ge=1)
    """GPUs in all; with `address` alone, all that the cluster has. Under `model.device: cpu` as many processes stand
    for them."""
    address: NonEmptyText | None = None
    """Of a Ray cluster that is already running; `auto` finds the one that this machine belongs to. Without it Ray
    starts on this machine and stops with the run."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs of one engine, all on one machine, over which vLLM splits each layer."""
    restarts: int = Field(3, ge=0)
    """How often a run may lose an engine, which restarts by itself, and how often a rank of the policy, after which the
    run restarts from its last checkpoint; beyond that it ends with an error."""
    timeout: float = Field(1800.0, gt=0)
    """Seconds after which processes that wait for each other count as hung, and for which a run waits for GPUs that
    left with their machine."""
    dashboard: NonEmptyText | None = "127.0.0.1"
    """Address on which Ray's dashboard listens, where Ray is started for the run; `null` for none."""

    @property
    def used(self) -> bool:
        """Whether the run is on a cluster."""
        return self.gpus is not None or self.address is not None

    @model_validator(mode="after")
    def _needs_gpus(self) -> Self:
        if not self.used and (asked := self.changed()):
            raise ValueError(f"cluster.{asked[0]} needs cluster.gpus, or cluster.address")
        return self


class ClusterSettings(EngineClusterSettings):
    """Many GPUs, through Ray. Without `gpus` and `address` a run is one process."""

    layout: Literal["colocated", "apart"] = "colocated"
    """`colocated`: engines share the GPUs of the policy, and vLLM's sleep while it trains. `apart`: they have their
    own."""
    engines: int | None = Field(None, ge=1)
    """Sampling engines. By default as many as fit: under `colocated` on all GPUs, under `apart` on half of them."""
    shard: int | None = Field(None, ge=1)
    """Ranks that share one copy of the weights (FSDP2); each such group holds a copy (HSDP). By default the policy's
    GPUs of one machine."""
    reshard: bool = True
    """Give a layer's gathered weights back between forward and backward pass, and gather them again (ZeRO-3). Without,
    they stay in between (ZeRO-2): faster, with more memory."""
