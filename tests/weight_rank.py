"""One rank of `cluster/test_weights.py`, in a process of its own; imports what a bare process must repair first."""

from functools import partial

from observe_r1.torch_compat import ensure_importable

ensure_importable()

import torch  # noqa: E402
from torch import distributed  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402

from observe_r1.cluster.weights import WeightSender  # noqa: E402
from observe_r1.config import ModelSettings  # noqa: E402
from observe_r1.model.loading import load_model  # noqa: E402

RANKS = 2


def changed_model(folder, lora):
    """The model with other weights than on disk, the same wherever it is called."""
    settings = ModelSettings(path=folder, device="cpu", lora_rank=lora, freeze=("model.visual",) if lora else ())
    torch.manual_seed(7)  # adapters are drawn
    model = load_model(settings).model
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    return model


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


def run(rank, folder, meet, lora, asked, answered):
    """Send the changed model's weights, then all of them a second time."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=RANKS)
    model = changed_model(folder, lora)
    mesh = init_device_mesh("cpu", (RANKS,))
    whole = {w for w in model.model.visual.parameters() if not w.requires_grad}
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=whole)
    client = Remote(asked, answered) if rank == 0 else None
    cpu = torch.device("cpu")
    sender = WeightSender(model, torch.float32, "gloo", client, 1, device=cpu, bucket=100_000, timeout=120)
    sender.send()
    sender.send()
    if rank == 0:
        asked.put(("done", ()))
    distributed.barrier()
    sender.close()
    distributed.destroy_process_group()
