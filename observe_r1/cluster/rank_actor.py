"""One rank of the policy in a process of its own: `ShardedPolicy`, as the driver (`ranks`) calls it by Ray."""

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor, distributed

from observe_r1.cluster.carrying import carry_tensors
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

BESIDE = "beside"
"""Ray's group of the calls that a rank answers beside its work."""


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

    @ray.method(concurrency_group=BESIDE)
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
        collectives = "gloo" if settings.model.device == "cpu" else "cpu:gloo,cuda:nccl"
        distributed.init_process_group(collectives, store=store, rank=self.rank, world_size=self.ranks, timeout=limit)
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

    @ray.method(concurrency_group=BESIDE)
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
