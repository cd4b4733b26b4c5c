"""One rank of `cluster/test_weights.py`, in a process of its own; imports what a bare process must repair first."""

from observe_r1.torch_compat import ensure_importable

ensure_importable()

import torch  # noqa: E402
from torch import distributed  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402

from observe_r1.cluster.weights import EmbeddedReceiver, VLLMReceiver, WeightSender, vllm_arguments  # noqa: E402
from observe_r1.config import ModelSettings  # noqa: E402
from observe_r1.model.adapters import merged_weights  # noqa: E402
from observe_r1.model.loading import load_model  # noqa: E402
from observe_r1.rollout.embedded import EmbeddedEngine  # noqa: E402

RANKS = 2
CPU = torch.device("cpu")


def randomised(settings):
    """The model with other weights than on disk, the same on every rank."""
    torch.manual_seed(7)  # adapters are drawn
    vlm = load_model(settings)
    with torch.no_grad():
        for weight in vlm.model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    return vlm


def sharded(vlm):
    model = vlm.model
    mesh = init_device_mesh("cpu", (RANKS,))
    whole = {w for w in model.model.visual.parameters() if not w.requires_grad}
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=whole)


def run(rank, folder, port_file, kind, lora, found):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=RANKS)
    settings = ModelSettings(path=folder, device="cpu", lora_rank=lora, freeze=("model.visual",) if lora else ())
    vlm = randomised(settings)
    expected = merged_weights(vlm.model, {})
    sharded(vlm)
    engine = receiver = None
    if rank == 0:
        engine, receiver = ENGINES[kind](folder)
    sender = WeightSender(vlm.model, torch.float32, "gloo", receiver, 1, device=CPU, bucket=100_000)
    for round_ in range(2):  # a second update must find everything as the first left it
        with torch.no_grad():
            for weight in vlm.model.parameters():
                if round_ and weight.requires_grad and not lora:
                    weight.mul_(2)
        sender.send()
    if rank == 0:
        found.put(CHECKS[kind](engine, {n: w if lora else 2 * w for n, w in expected.items()}, folder))
    sender.close()
    distributed.barrier()
    distributed.destroy_process_group()


def embedded(folder):
    engine = EmbeddedEngine(load_model(ModelSettings(path=folder, device="cpu"), frozen=True))
    engine.vlm.features.used = 1  # as if an image's features were kept
    return engine, EmbeddedReceiver(engine)


def check_embedded(engine, expected, folder):
    own = dict(engine.vlm.model.named_parameters())
    assert own.keys() == expected.keys() and engine.vlm.features.used == 0
    return max(float((own[name] - weight).abs().max()) for name, weight in expected.items())


def through_vllm(folder):
    from observe_r1.rollout.vllm import VLLMEngine

    vlm = load_model(ModelSettings(path=folder, device="cpu"), frozen=True)
    engine = VLLMEngine(vlm, vllm_arguments("gloo"), max_model_len=256, dtype=torch.float32)
    return engine, VLLMReceiver(engine)


def check_vllm(engine, expected, folder):
    """Against what vLLM itself loads from a checkpoint of the same weights; every parameter of its own, fused ones too."""
    from safetensors.torch import save_file

    def held():
        model = engine._engine.model_executor.driver_worker.worker.model_runner.get_model()
        return {name: weight.detach().clone() for name, weight in model.named_parameters()}

    received = held()
    save_file({name: weight.contiguous() for name, weight in expected.items()}, f"{folder}/model.safetensors")
    with torch.no_grad():
        for (
            name,
            weight,
        ) in engine._engine.model_executor.driver_worker.worker.model_runner.get_model().named_parameters():
            weight.zero_()
    engine._engine.collective_rpc("reload_weights")
    loaded = held()
    assert received.keys() == loaded.keys() and len(loaded) > 20
    assert all(weight.any() for name, weight in loaded.items() if name.endswith("weight"))
    return max(float((received[name] - weight).abs().max()) for name, weight in loaded.items())


ENGINES = {"embedded": embedded, "vllm": through_vllm}
CHECKS = {"embedded": check_embedded, "vllm": check_vllm}
