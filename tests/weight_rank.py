"""The ranks of `cluster/test_weights.py`, in processes of their own; imports what a bare process must repair first."""

import gc
from functools import partial
from pathlib import Path

from observe_r1.torch_compat import ensure_importable

ensure_importable()

import torch  # noqa: E402
from torch import distributed, multiprocessing  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402

from observe_r1.cluster.weights import WeightSender  # noqa: E402
from observe_r1.config import ModelSettings  # noqa: E402
from observe_r1.model.loading import load_model  # noqa: E402

RANKS = 2
BUCKET = 100_000


def changed_model(folder, lora):
    """The model with other weights than on disk, the same wherever it is called."""
    settings = ModelSettings(path=folder, device="cpu", lora_rank=lora, freeze=("model.visual",) if lora else ())
    torch.manual_seed(7)  # adapters are drawn
    vlm = load_model(settings)
    with torch.no_grad():
        for weight in vlm.model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    return vlm


class Remote:
    """The engine in the test's own process, as rank 0 calls it."""

    def __init__(self, asked, answered):
        self._asked, self._answered = asked, answered

    def __getattr__(self, method):
        return partial(self._call, method)

    def _call(self, method, *arguments):
        self._asked.put((method, arguments))
        if fault := self._answered.get():
            raise RuntimeError(fault)


class Peak:
    """The most that this process holds of memory beyond what it held when it was made, in bytes."""

    def __init__(self):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forgets earlier peaks
        self._before = self._held("VmRSS")

    def reached(self):
        return self._held("VmHWM") - self._before

    def _held(self, name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


class Ranks:
    """Two ranks, which send the weights of one model after another to an engine in this process."""

    def __init__(self, folder):
        context = multiprocessing.get_context("spawn")
        self._jobs = [context.SimpleQueue() for _ in range(RANKS)]
        self._asked, self._answered = context.SimpleQueue(), context.SimpleQueue()
        arguments = (folder / "meet", self._jobs, self._asked, self._answered)
        self._processes = multiprocessing.spawn(run, arguments, nprocs=RANKS, join=False)

    def send(self, receiver, folder, lora=0, dtype=torch.float32, bucket=BUCKET, workers=1):
        """Send twice; return each rank's peak of memory in the second time, in bytes."""
        for job in self._jobs:
            job.put((str(folder), lora, dtype, bucket, workers))
        while True:
            while self._asked.empty():
                assert not self._processes.join(timeout=0.02), "the ranks ended early"
            method, given = self._asked.get()
            if method == "done":
                return given
            getattr(receiver, method)(*given)
            self._answered.put("")

    def close(self):
        for job in self._jobs:
            job.put(None)
        while not self._processes.join():
            pass


def run(rank, meet, jobs, asked, answered):
    """Take jobs until there is None."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=RANKS)
    while (job := jobs[rank].get()) is not None:
        folder, lora, dtype, bucket, workers = job
        sender = WeightSender(
            sharded(changed_model(folder, lora).model),
            dtype,
            "gloo",
            Remote(asked, answered) if rank == 0 else None,
            workers,
            device=torch.device("cpu"),
            bucket=bucket,
            timeout=120,
        )
        sender.send()
        peak = Peak()
        sender.send()
        peaks = [None] * RANKS
        distributed.all_gather_object(peaks, peak.reached())
        sender.close()
        if rank == 0:
            asked.put(("done", peaks))
    distributed.destroy_process_group()


def sharded(model):
    mesh = init_device_mesh("cpu", (RANKS,))
    whole = {w for w in model.model.visual.parameters() if not w.requires_grad}
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=whole)
    return model
