"""LoRA adapters through peft, and the frozen weights under them in 8 or 4 bits through bitsandbytes.

LoRA (arXiv 2106.09685): y = W·x + (α/r)·B·A·x, where only A and B are trained. Adapters are injected in place, so the
model keeps its class, its calls and the names of all other weights. B starts at zero: an untrained adapter changes
nothing. 8 bits are LLM.int8() (arXiv 2208.07339), 4 bits QLoRA's NF4 with double quantization (arXiv 2305.14314); the
image tower and the head, small and sensitive, are left as they are.

peft, which imports much, is loaded only if there are adapters.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from transformers import BitsAndBytesConfig, PreTrainedModel

from observe_r1.config import ModelSettings
from observe_r1.errors import UserError, how_to_install
from observe_r1.model.device import compute_dtype

_NAME = "default"  # of the one adapter, as peft calls it
_PREFIX = "base_model.model."  # of every name in peft's files
_NOT_QUANTIZED = ["model.visual", "lm_head"]


def add_adapters(model: PreTrainedModel, settings: ModelSettings) -> None:
    """Freeze `model` and give the linear layers that `settings.lora_targets` names float32 adapters.

    Those of a model without weights are the same, and real.

    Raises:
        UserError: A target matches no linear layer that `settings.freeze` leaves.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = _targets(model, settings)
    config = LoraConfig(
        base_model_name_or_path=settings.path,
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # it is only ever divided by the rank
        target_modules=targets,
    )
    # peft puts adapters where their layer's weight is: here a number in its shape stands in for one that is nowhere.
    linear: dict[str, Any] = {name: model.get_submodule(name) for name in targets}
    nowhere = {name: layer.weight for name, layer in linear.items() if layer.weight.is_meta}
    for name, weight in nowhere.items():
        linear[name].weight = nn.Parameter(torch.zeros(()).expand(weight.shape), requires_grad=False)
    inject_adapter_in_model(config, model, _NAME)
    for name, weight in nowhere.items():
        linear[name].weight = weight.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _targets(model: PreTrainedModel, settings: ModelSettings) -> list[str]:
    linear = [
        name
        for name, module in model.model.named_modules(prefix="model")
        if isinstance(module, nn.Linear) and not f"{name}.weight".startswith(settings.freeze)
    ]
    of_text = [name for name in linear if name.startswith("model.language_model.")]
    if not settings.lora_targets and not of_text:
        raise UserError("model.freeze leaves no linear layer of the text model for adapters")
    chosen: list[str] = []
    for target in settings.lora_targets:
        matching = [name for name in linear if f".{name}".endswith(f".{target}")]
        if not matching:
            known = ", ".join(dict.fromkeys(name.rsplit(".", 1)[-1] for name in of_text))
            raise UserError(f"model.lora_targets: no layer that is not frozen ends in {target!r}; known: {known}")
        chosen += matching
    return chosen or of_text


@contextmanager
def without_adapters(model: PreTrainedModel) -> Iterator[None]:
    """Run the block with the model as it was before any adapter; nothing to do for a model that has none."""
    layers = _adapted_layers(model)
    for layer in layers.values():
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers.values():
            layer.enable_adapters(True)


@contextmanager
def base_layers_in_place(model: PreTrainedModel) -> Iterator[None]:
    """Run the block with each layer that has adapters replaced by the one under them, so that names are a checkpoint's.

    Inside nothing may be computed.
    """
    layers = _adapted_layers(model)
    for name, layer in layers.items():
        model.set_submodule(name, layer.base_layer)
    try:
        yield
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)


def merged_weights(
    model: PreTrainedModel, masters: Mapping[str, Tensor], wanted: Collection[str]
) -> Iterator[tuple[str, Tensor | None]]:
    """Yield the weights of an ordinary model that computes what `model` does: float32, on the CPU, by their names.

    Of a sharded model each weight is gathered by itself, so all ranks must go through all of them together.

    Args:
        model: Tied weights come once.
        masters: By name, stand for weights that `model` holds less precisely.
        wanted: Names whose weights the caller takes; the others come as None.
    """
    for name, weight in _ordinary_weights(model, masters, tied=False, dtype=torch.float32):
        gathered = whole(weight)
        yield name, gathered.cpu() if name in wanted else None


def published_weights(
    model: PreTrainedModel, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of an ordinary model that computes what `model` does, by their names, tied ones by each.

    For an engine that copies them one by one. If they stay on their device and in their type, those without adapters
    are `model`'s own; of the others only the one that is being copied exists. Sharded weights stay sharded, and
    adapters are added to each rank's part: all ranks iterate together.

    Args:
        model: Its weights may be sharded (DTensor).
        device: Where they go; None leaves them where they are.
        dtype: Their type; None leaves it.
    """
    return _ordinary_weights(model, {}, tied=True, device=device, dtype=dtype)


@torch.no_grad()
def _ordinary_weights(
    model: PreTrainedModel,
    masters: Mapping[str, Tensor],
    *,
    tied: bool,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield weights with adapters added to their layers and quantized ones computed back; `model` stays as it is."""
    layers = _adapted_layers(model)
    for key, parameter in model.named_parameters(remove_duplicate=not tied):
        owner, _, kind = key.rpartition(".")
        if f".{_NAME}." in key:  # an adapter's own
            continue
        layer = owner.removesuffix(".base_layer")
        held = dequantized(model.get_submodule(owner)) if kind == "weight" else parameter
        held = masters.get(key, held).detach()
        weight = held.to(device or held.device)
        if kind == "weight" and layer in layers:
            own = (f"lora_{side}.{_NAME}.weight" for side in "AB")
            sides = [masters.get(f"{layer}.{each}", layers[layer].get_parameter(each)) for each in own]
            a, b = (each.to(weight.device, torch.float32) for each in _laid_out_as(weight, *sides))
            weight = weight.float() + b @ a * layers[layer].scaling[_NAME]
        yield key.replace(".base_layer.", "."), weight.to(dtype or held.dtype)


def _laid_out_as(weight: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return A whole and, of B, the rows that `weight` has on this rank."""
    if not isinstance(weight, DTensor):
        return whole(a), whole(b)
    mesh = weight.device_mesh
    here: Any = a.to(mesh.device_type)  # it may be offloaded
    return here.redistribute(placements=[Replicate()] * mesh.ndim), b


def whole(weight: Tensor) -> Tensor:
    """Return a weight, gathered on every rank if it is sharded; then all ranks must call this together."""
    if isinstance(weight, DTensor):
        on_device: Any = weight.to(weight.device_mesh.device_type)  # it may be offloaded
        return on_device.full_tensor()
    return weight


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether `add_adapters` was called on `model`."""
    return _NAME in getattr(model, "peft_config", {})


def _adapted_layers(model: PreTrainedModel) -> dict[str, Any]:
    """Return peft's layers by name; none for a model without adapters."""
    if not has_adapters(model):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def save_adapters(model: PreTrainedModel, masters: dict[str, Tensor], folder: Path | None) -> None:
    """Write the adapters of `model` for `peft.PeftModel.from_pretrained`.

    Args:
        model: With adapters; of a sharded one, all ranks must call this together.
        masters: As for `merged_weights`.
        folder: Must not exist yet; None if another rank writes it.
    """
    from peft import get_peft_model_state_dict

    adapters = ((name, each) for name, each in model.named_parameters() if f".{_NAME}." in name)
    held = {name: whole(masters.get(name, parameter).detach()) for name, parameter in adapters}
    if folder is None:
        return
    folder.mkdir()
    own = get_peft_model_state_dict(model, held, _NAME, save_embedding_layers=False)
    save_file({_PREFIX + name: weight for name, weight in own.items()}, folder / "adapter_model.safetensors")
    config = copy(model.peft_config[_NAME])
    for name, value in vars(config).items():
        if isinstance(value, set):  # written in whatever order it has, another one in every process
            setattr(config, name, sorted(value))
    config.save_pretrained(str(folder))


def quantization(settings: ModelSettings, device: torch.device) -> dict[str, Any]:
    """Return the keyword arguments by which `from_pretrained` loads as `settings.quantize` says; none for `none`.

    Raises:
        UserError: There are no adapters to train, or bitsandbytes is missing.
    """
    if settings.quantize == "none":
        return {}
    if settings.lora_rank == 0:
        raise UserError(
            f"model.quantize = {settings.quantize!r}: quantized weights cannot be trained; "
            "train adapters on them (model.lora_rank: 32) or leave it at 'none'"
        )
    if find_spec("bitsandbytes") is None:
        raise UserError(f"model.quantize = {settings.quantize!r} needs bitsandbytes: {how_to_install('quantize')}")
    config = BitsAndBytesConfig(
        load_in_8bit=settings.quantize == "8bit",
        load_in_4bit=settings.quantize == "4bit",
        llm_int8_skip_modules=_NOT_QUANTIZED,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(settings),
    )
    return {"quantization_config": config, "device_map": {"": device}}


def keep_trainable(model: nn.Module) -> None:
    """Keep the 4-bit layers of `model` as they were loaded.

    In evaluation mode on a CPU with AVX-512 bitsandbytes would pack their weights anew, rounding their scales, into a
    form that cannot be trained through.
    """
    layers: Any = model.modules()
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def dequantized(module: nn.Module) -> Tensor:
    """Return the weight of `module`, a linear layer, without quantization; `module` itself stays as it is."""
    weight: Any = module.weight
    match type(weight).__name__:
        case "Params4bit":
            from bitsandbytes.functional import dequantize_4bit

            return dequantize_4bit(weight.data, weight.quant_state)
        case "Int8Params":
            # peft's own way back moves the weight and loses its scales. A first forward moves them into the state.
            state: Any = module.state
            scales = weight.SCB if state.SCB is None else state.SCB
            return weight.data * (scales[:, None] / 127)
        case _:
            return weight
