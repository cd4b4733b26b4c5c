"""The policy's weights on their way from its ranks to the engines, by vLLM's weight transfer.

    engines                     back end   what travels
    vLLM on the policy's GPUs   ipc        every rank gathers weight by weight, and the engine copies from its memory
    vLLM on GPUs of their own   nccl       rank 0 broadcasts weight by weight, which all ranks gather
    anything else               gloo       every rank sends its own rows (`gloo_transfer`)

No rank ever holds the whole model. LoRA adapters are merged layer by layer, on each rank's own rows. Tied weights go by
each of their names, because vLLM's CPU build packs a head of its own. vLLM's `nccl_m2n`, which gathers nothing on
GPUs either, takes no weights of more than three dimensions (`MAX_TENSOR_DIMS` in its m2n_common.py), and the patch
embedding of every Qwen-VL has five.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, Shard

from observe_r1.cluster.gloo_transfer import (
    GlooInit,
    GlooReceiver,
    GlooTrainer,
    GlooTrainerInit,
    Receivers,
    Rows,
    Weight,
)
from observe_r1.model.adapters import published_weights, whole
from observe_r1.rollout.embedded import EmbeddedEngine
from observe_r1.rollout.vllm import VLLMEngine

if TYPE_CHECKING:  # actors import this before `observe_r1.model` has repaired what transformers needs
    from transformers import PreTrainedModel

BUCKET = 256 << 20
"""Bytes that travel at once."""


def backend(engine: str, layout: str, device: str) -> str:
    """Return the name of the back end; see the table above.

    Args:
        engine: `rollout.engine`.
        layout: `cluster.layout`.
        device: `cuda` or `cpu`.
    """
    if engine != "vllm" or device != "cuda":
        return "gloo"
    return "ipc" if layout == "colocated" else "nccl"


def vllm_arguments(name: str) -> dict[str, Any]:
    """Return vLLM's arguments for receiving by the back end `name`; they go with those of `rollout.vllm`."""
    arguments: dict[str, Any] = {"weight_transfer_config": {"backend": name}}
    if name == "gloo":
        arguments["worker_extension_cls"] = "observe_r1.cluster.vllm_gloo.Registered"
    return arguments


class PolicyWeights:
    """One rank's view of the weights to send; has the methods of vLLM's `WeightSource`. All ranks iterate together.

    Args:
        model: The policy's, its weights sharded by FSDP2 or not.
        dtype: Engines compute in it.
        device: Where the back end takes weights from.
    """

    def __init__(self, model: "PreTrainedModel", dtype: torch.dtype, device: torch.device) -> None:
        self.model, self.dtype, self.device = model, dtype, device
        self._weights = [Weight(name, w.dtype, tuple(w.shape), _rows(name, w)) for name, w in self._each()]

    def metadata(self) -> list[Weight]:
        """Return names, types and whole shapes, and which rank sends which rows."""
        return self._weights

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each weight whole, gathered when it is its turn."""
        for name, weight in self._each():
            yield name, whole(weight).contiguous()

    def shards(self) -> Iterator[Tensor]:
        """Yield this rank's rows of each weight."""
        for _, weight in self._each():
            yield weight.to_local() if isinstance(weight, DTensor) else weight

    def _each(self) -> Iterator[tuple[str, Tensor]]:
        return published_weights(self.model, device=self.device, dtype=self.dtype)


def _rows(name: str, weight: Tensor) -> tuple[Rows, ...]:
    """Return who sends what: of several copies the first, of what all ranks hold whole rank 0."""
    if not isinstance(weight, DTensor):
        return ((0, 0, weight.shape[0]),)
    *copies, part = weight.placements
    if part != Shard(0) or any(not each.is_replicate() for each in copies):
        raise NotImplementedError(f"{name} is sharded as {weight.placements}; only rows can be sent")
    mesh = weight.device_mesh.mesh
    ranks = (mesh[0] if mesh.ndim == 2 else mesh).tolist()
    each = -(-weight.shape[0] // len(ranks))  # as `torch.chunk` does
    edges = [min(number * each, weight.shape[0]) for number in range(len(ranks) + 1)]
    return tuple((rank, *span) for rank, span in zip(ranks, pairwise(edges), strict=True))


class WeightSender:
    """A rank's side: made on all ranks together, with torch's process group.

    Args:
        model: The policy's.
        dtype: Engines compute in it.
        name: The back end.
        client: The engines; only rank 0 calls them.
        workers: In all engines together.
        device: Of this rank.
        host: Address of rank 0's machine, as engines and ranks see it.
        bucket: Bytes that travel at once.
        timeout: Seconds after which an engine that does not answer counts as lost.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        dtype: torch.dtype,
        name: str,
        client: Receivers,
        workers: int,
        *,
        device: torch.device,
        host: str = "127.0.0.1",
        bucket: int = BUCKET,
        timeout: float = 1800.0,
    ) -> None:
        rank, self._device = distributed.get_rank(), device
        source = PolicyWeights(model, dtype, torch.device("cpu") if name == "gloo" else device)
        largest = max(weight.size for weight in source.metadata())
        self._trainer: Any
        if name == "gloo":
            info = GlooTrainerInit(rank, workers, host, bucket, timeout)
            self._trainer = GlooTrainer.trainer_init(info, client=client, source=source)
            return
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        told: Any
        if name == "ipc":  # whose buffer has to hold the largest weight
            told = IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=max(bucket, largest))
        else:
            port = 0 if rank else _free_port(host)  # rank 0 alone listens, and `host` is an address of its machine
            told = NCCLTrainerInitInfo(host, port, 1 + workers, packed_buffer_size_bytes=bucket, rank=rank)
        self._trainer = WeightTransferTrainerFactory.trainer_init(told, client=client, source=source)  # type: ignore[arg-type]

    def send(self) -> None:
        """Bring all engines up to date; on all ranks together.

        The last optimizer step may still be queued, and NCCL's sender reads weights on streams that do not wait for it
        (`packed_nccl_broadcast_producer` in vllm/distributed/weight_transfer/packed_tensor.py).
        """
        torch.get_device_module(self._device).synchronize()
        self._trainer.send_weights()

    def close(self) -> None:
        """Let the engines go."""
        self._trainer.shutdown()


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


class WeightReceiver(Protocol):
    """An engine's side, with the calls of vLLM's weight transfer."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Meet the ranks."""
        ...

    def start_weight_update(self) -> None:
        """Begin: from here to the end nothing may be sampled."""
        ...

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive all weights."""
        ...

    def finish_weight_update(self) -> None:
        """End: whatever old weights computed is forgotten."""
        ...


class EmbeddedReceiver:
    """Copies weights into the model of an embedded engine.

    Args:
        engine: With a model of its own, ordinary: without adapters and quantization.
    """

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._vlm = engine.vlm
        self._own = dict(engine.vlm.model.named_parameters(remove_duplicate=False))
        self._receiver: GlooReceiver | None = None

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        """Join the group; a restarted trainer's replaces the one before."""
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = GlooReceiver(GlooInit(**init_info))

    def start_weight_update(self) -> None:
        """Do nothing: weights are replaced in place."""

    @torch.no_grad()
    def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Receive and copy bucket after bucket."""
        assert self._receiver is not None
        names = {weight["name"] for weight in update_info["weights"]}
        if unlike := sorted(names ^ self._own.keys()):
            self._receiver.close()
            raise ValueError(f"the engine's model and the policy's are not the same: {unlike[0]} is in one alone")
        for batch in self._receiver.receive(update_info["weights"]):
            for name, weight in batch:
                self._own[name].copy_(weight)
            batch.clear()
            del weight

    def finish_weight_update(self) -> None:
        """Forget image features."""
        self._vlm.features.clear()


class VLLMReceiver:
    """Passes the calls on to vLLM's workers, and has vLLM forget what old weights computed."""

    def __init__(self, engine: VLLMEngine) -> None:
        self._engine = engine

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        """Let the workers meet the ranks."""
        self._engine.call_workers("init_weight_transfer_engine", init_info=dict(init_info))

    def start_weight_update(self) -> None:
        """Wake the weights."""
        self._engine.wake_weights()
        self._engine.call_workers("start_weight_update")

    def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Let the workers receive."""
        self._engine.call_workers("update_weights", update_info=dict(update_info))

    def finish_weight_update(self) -> None:
        """Wake the rest and forget prefixes, image inputs and image features."""
        self._engine.call_workers("finish_weight_update")
        self._engine.forget()


def weight_receiver(engine: Any) -> WeightReceiver:
    """Return the side of `engine` that takes weights."""
    return VLLMReceiver(engine) if isinstance(engine, VLLMEngine) else EmbeddedReceiver(engine)


class ActorReceivers:
    """All engines, each a Ray actor with the methods of `WeightReceiver`, as rank 0 calls them: all at once.

    Args:
        actors: Of the engines.
        workers: Of each engine.
    """

    def __init__(self, actors: Sequence[Any], workers: int) -> None:
        self._actors, self._workers = actors, workers
        self.version = 0
        """Of the weights that are sent."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let all join the group, each engine's workers behind those of the one before."""
        first = init_info.get("rank_offset", 0)
        told = [init_info | {"rank_offset": first + self._workers * number} for number in range(len(self._actors))]
        self._all("init_weight_transfer_engine", told if "rank_offset" in init_info else [init_info] * len(told))

    def start_weight_update(self) -> None:
        """Begin everywhere."""
        self._all("start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        """Let all receive."""
        self._all("update_weights", [update_info] * len(self._actors))

    def finish_weight_update(self) -> None:
        """End everywhere."""
        self._all("finish_weight_update", [self.version] * len(self._actors))

    def _all(self, method: str, arguments: Sequence[Any] = ()) -> None:
        import ray

        calls = [getattr(actor, method) for actor in self._actors]
        ray.get([call.remote(*arguments[n : n + 1]) for n, call in enumerate(calls)])
