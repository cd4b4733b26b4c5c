"""Engines in processes of their own, and how they get new weights: handed over in buckets through Ray's store."""

from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch
from torch import Tensor

from observe_r1.cluster.calls import collect
from observe_r1.cluster.carrying import carry_tensors
from observe_r1.cluster.placement import Seats
from observe_r1.cluster.ranks import PolicyRanks
from observe_r1.config import TrainSettings
from observe_r1.model.device import compute_dtype
from observe_r1.model.loading import load_model
from observe_r1.records import Completion, Prompt, Sampling
from observe_r1.registry import load
from observe_r1.rollout.engine import CopyingEngine, OnGroup, unheard


class EngineProcess:
    """One engine's process: the engine that `rollout.engine` names, with weights of its own.

    Args:
        settings: Of the run; `model.device` names the device.
    """

    def __init__(self, settings: TrainSettings) -> None:
        carry_tensors()
        torch.set_num_threads(settings.run.threads or 1)
        kind = load("engine", settings.rollout.engine)
        # Only the embedded engine samples with the weights of the model that it is given.
        own = not hasattr(kind, "load_weights")
        self.vlm = load_model(settings.model, frozen=True, weights=own)
        dtype = compute_dtype(settings.model)
        self.engine = kind.from_settings(self.vlm, settings.rollout, settings.data, dtype, None, unheard)

    def ready(self) -> None:
        """Return once the engine can sample."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample; see `Engine.generate`."""
        return self.engine.generate(prompts, sampling)

    @torch.no_grad()
    def load(self, version: int, buckets: list[Any]) -> None:
        """Take over weights; `buckets` are references to parts of them."""
        if isinstance(self.engine, CopyingEngine):
            self.engine.load_weights(_weights(buckets))
        else:
            own = dict(self.vlm.model.named_parameters(remove_duplicate=False))
            for name, weight in _weights(buckets):
                own[name].copy_(weight)
        self.engine.version = version


def _weights(buckets: list[Any]) -> Iterator[tuple[str, Tensor]]:
    for bucket in buckets:
        yield from ray.get(bucket)


class EngineProcesses:
    """All engines, as the driver sees them: one `Engine`, to which prompts are dealt in turn.

    Args:
        settings: Of the run; `model.device` names the device of the engines.
        seats: Where they are.
        gpus: Of each rank, as CUDA counts them on its machine.
    """

    def __init__(self, settings: TrainSettings, seats: Seats, gpus: list[str]) -> None:
        actor = ray.remote(EngineProcess)
        self.version = self.finished = 0
        self._engines: list[Any] = [
            actor.options(**seats.engine(number, gpus)).remote(settings) for number in range(seats.counts.engines)
        ]

    def ready(self) -> None:
        """Wait until all can sample."""
        collect([engine.ready.remote() for engine in self._engines])

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None = None
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions per prompt; see `Engine.generate`."""
        count = len(self._engines)
        dealt = [range(first, len(prompts), count) for first in range(count)]
        calls = [
            engine.generate.remote([prompts[index] for index in indices], sampling)
            for engine, indices in zip(self._engines, dealt, strict=True)
        ]
        done: dict[int, list[Completion]] = {}
        for indices, groups in zip(dealt, collect(calls), strict=True):
            done |= dict(zip(indices, groups, strict=True))
        self.finished += len(prompts) * sampling.n
        if on_group is not None:
            for index in range(len(prompts)):
                on_group(index, done[index])
        return [done[index] for index in range(len(prompts))]

    def load(self, version: int, buckets: list[Any]) -> None:
        """Let all engines take over weights; see `EngineProcess.load`."""
        collect([engine.load.remote(version, buckets) for engine in self._engines])
        self.version = version

    def close(self) -> None:
        """Do nothing: the processes end with their seats."""


class HandedWeights:
    """Carries the weights from the ranks to the engines; see `WeightSync`."""

    def __init__(self, ranks: PolicyRanks, engines: EngineProcesses) -> None:
        self._ranks, self._engines = ranks, engines

    def publish(self, version: int) -> None:
        """Gather the weights part by part, and let the engines load them."""
        self._engines.load(version, list(self._ranks.buckets()))

    def rest(self) -> None:
        """Do nothing: these engines hold their memory."""
