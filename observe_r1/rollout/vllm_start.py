"""Starting vLLM: its arguments, its share of the GPU's memory, and one line for whatever keeps it from starting."""

import gc
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from packaging.version import Version

from observe_r1.errors import UserError, how_to_install
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.registry import nearest
from observe_r1.rollout.engine import TrainingMemory
from observe_r1.torch_compat import has_repaired

_log = logging.getLogger(__name__)

_OLDEST = "0.32"
_CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
_CPU_CACHE = 1 << 30
"""Bytes of the key-value cache on the CPU, where vLLM would otherwise take most of the machine's memory."""
_CPU_BATCH = 4096
"""Prompt tokens computed at once on the CPU."""
_SPARE = 0.1
"""Share of a GPU's memory left for CUDA itself, the kernels' workspaces and fragmentation; also in docs/memory.md."""
_MACHINE = re.compile("memory|CUDA|engine core", re.IGNORECASE)
"""In a `RuntimeError` about what the machine lacks; others are bugs."""

_ONE_GPU = "vLLM samples in this process, on one GPU"
_FIXED: dict[str, tuple[Any, str]] = {
    "logprobs_mode": ("processed_logprobs", "training needs the probabilities that tokens were really sampled with"),
    "mm_device_do_normalize": (False, "images are handed over preprocessed"),
    "speculative_config": (None, "vLLM cannot suppress tokens while it guesses several ahead"),
    "tensor_parallel_size": (1, "cluster.tensor_parallel splits an engine over several GPUs"),
    "pipeline_parallel_size": (1, _ONE_GPU),
    "data_parallel_size": (1, _ONE_GPU),
    "prefill_context_parallel_size": (1, _ONE_GPU),
    "decode_context_parallel_size": (1, _ONE_GPU),
    "distributed_executor_backend": ("uni", _ONE_GPU),
    "nnodes": (1, _ONE_GPU),
}
"""Arguments of vLLM's `LLM` that the engine does not work without: the value and the reason."""


class Started(NamedTuple):
    """vLLM, ready to sample."""

    engine: Any
    """vLLM's `LLMEngine`."""
    threads: int
    """That vLLM wants torch to compute with."""
    can_sleep: bool
    """Whether it can give the GPU's memory back."""


def start_vllm(
    vlm: VisionLanguageModel,
    arguments: Mapping[str, Any],
    max_model_len: int,
    dtype: torch.dtype,
    training: TrainingMemory | None,
    note: Callable[[str], None],
    gpus: int = 1,
) -> Started:
    """Start vLLM's engine in this process; see `VLLMEngine` for the arguments.

    Over several GPUs it has a worker process for each, which vLLM spawns.

    Torch keeps its number of threads. On a GPU vLLM sets it to one for the entire process
    (`set_torch_threads_for_runtime` in vllm/utils/torch_utils.py); an offloaded update and the preprocessing of images
    would then take many times as long.

    Raises:
        UserError: vLLM is missing, broken or too old, refuses an argument, or does not start.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over by reference
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    vllm = _import_vllm()
    from vllm.exceptions import VLLMError

    chosen = _checked(vllm, _defaults(vlm, max_model_len, dtype) | dict(arguments))
    if gpus > 1:
        chosen |= {"tensor_parallel_size": gpus, "distributed_executor_backend": "mp"}
    sleeps = chosen["enable_sleep_mode"] = _can_sleep(arguments, training)
    if torch.cuda.is_available():
        if training is not None:
            chosen["gpu_memory_utilization"] = _own_share(vlm, dtype, arguments, training, gpus, sleeps, note)
    else:
        _check_head_width(vlm)
        if gpus > 1:  # vLLM would bind each worker to a NUMA node of its own
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()  # vLLM's CPU build replaces the function
    try:
        for architecture in vlm.model.config.architectures or [type(vlm.model).__name__]:
            # vLLM looks unknown ones up in a bare process, where torchvision may not import; known ones it has.
            model = vllm.ModelRegistry.models[architecture].load_model_cls()
            vllm.ModelRegistry.register_model(architecture, model)
        with _spawning_repaired():
            engine = vllm.LLM(model=vlm.model.config._name_or_path, disable_log_stats=True, **chosen).llm_engine
        return Started(engine, torch.get_num_threads(), sleeps)
    except (VLLMError, ValueError, TypeError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not (isinstance(error, VLLMError) or _MACHINE.search(str(error))):
            raise
        raise UserError(f"rollout.vllm: vLLM does not start: {short_reason(error)}{_memory_advice(error)}") from error
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)


@contextmanager
def _spawning_repaired() -> Iterator[None]:
    """Where torchvision needs a repair, let processes that are spawned during the block have it, before all else.

    A spawned process first imports its parent's main module, by the name that the module's spec has: here it is one of
    `observe_r1.model`, which makes the repair.
    """
    main = sys.modules["__main__"]
    before = main.__spec__
    if has_repaired():
        main.__spec__ = find_spec("observe_r1.model.device")
    try:
        yield
    finally:
        main.__spec__ = before


def _defaults(vlm: VisionLanguageModel, max_model_len: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return what `LLM` is started with if the user says nothing else."""
    size = vlm.processor.image_processor.size
    arguments: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "max_model_len": max_model_len,
        "limit_mm_per_prompt": {"image": 8, "video": 0},
        # The largest image's features must have room; nothing is preprocessed here.
        "mm_processor_kwargs": {"size": {name: size[name] for name in ("shortest_edge", "longest_edge")}},
        "mm_processor_cache_gb": 0,
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
    }
    if torch.cuda.is_available():
        return arguments
    # A prompt computed in parts would have its random generator set back, which torch's on the CPU cannot be.
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_model_len, _CPU_BATCH)}
    return arguments | {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_CACHE} | whole_prompts


def _checked(vllm: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return `arguments` with those of `_FIXED` and a head that computes in float32.

    Raises:
        UserError: vLLM does not know an argument, or it is not the user's to choose.
    """
    from vllm.engine.arg_utils import EngineArgs

    known = list(EngineArgs.__dataclass_fields__)
    for name, value in arguments.items():
        if name not in known:
            raise UserError(f"rollout.vllm: vLLM {vllm.__version__} has no argument {name!r}{nearest(name, known)}")
        only, reason = _FIXED.get(name, (value, ""))
        if value != only:
            raise UserError(f"rollout.vllm: {name} = {value!r} is not possible: {reason}; leave it out")
    overrides = arguments.get("hf_overrides") or {}
    if not isinstance(overrides, Mapping):
        raise UserError(f"rollout.vllm: hf_overrides = {overrides!r} should be a mapping of names to values")
    fixed = {name: value for name, (value, _) in _FIXED.items() if name in known}
    # Logits in bfloat16 would round the probabilities that training compares with its own (`_apply_head` in
    # vllm/model_executor/layers/logits_processor.py: on a GPU one product that accumulates and ends in float32).
    return arguments | fixed | {"hf_overrides": {"head_dtype": "float32", **overrides}}


def _can_sleep(arguments: Mapping[str, Any], training: TrainingMemory | None) -> bool:
    """Whether vLLM gives its memory back during updates: where something is trained on its GPU, or the user says so.

    Elsewhere it must not: a process can have one engine that sleeps (`_maybe_get_memory_pool_context` in
    vllm/v1/worker/gpu_worker.py), and a ladder is built with one engine after the other.
    """
    wanted = bool(arguments.get("enable_sleep_mode", training is not None))
    if torch.cuda.is_available():
        return wanted
    if arguments.get("enable_sleep_mode"):
        _log.warning("rollout.vllm: enable_sleep_mode is ignored: there is no GPU whose memory it could give back")
    return False


def _own_share(
    vlm: VisionLanguageModel,
    dtype: torch.dtype,
    arguments: Mapping[str, Any],
    training: TrainingMemory,
    gpus: int,
    sleeps: bool,
    note: Callable[[str], None],
) -> float:
    """Return vLLM's share of this GPU's memory, and note how it comes about; see `gpu_share`."""
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    # Fewer than vLLM's where `vlm`'s are quantized, because those are packed; vLLM then refuses by itself.
    weights = sum(parameter.numel() for parameter in vlm.model.parameters()) * dtype.itemsize // gpus
    asked = arguments.get("gpu_memory_utilization")
    share, line = gpu_share(total, free, training, weights, sleeps=sleeps, asked=asked)
    note(line)
    return share


def gpu_share(
    total: int,
    free: int,
    training: TrainingMemory,
    weights: int,
    *,
    sleeps: bool = True,
    asked: float | None = None,
) -> tuple[float, str]:
    """Return vLLM's share of a GPU's memory (its `gpu_memory_utilization`), and in one line how it comes about.

    vLLM measures before the first update, and would take for its own what the optimizer's moments are about to fill. So
    its share is what is free now, less what training still adds and keeps, less a tenth of the GPU for CUDA, workspaces
    and fragmentation. What an update adds needs no room beside vLLM where vLLM sleeps during updates.

    Args:
        total: Bytes of the GPU.
        free: Bytes that are free, with `training.held` there already.
        training: What is trained on the same GPU.
        weights: Bytes of vLLM's own weights.
        sleeps: Whether vLLM gives its memory back during updates.
        asked: The share that the user gives; None takes what there is.

    Raises:
        UserError: Training alone, or vLLM's weights or the share asked for beside it, do not fit.
    """
    coming, update = sum(training.coming.values()), sum(training.update.values())
    spare = int(_SPARE * total)
    others = {"other": max(0, total - free - sum(training.held.values()))}
    named = ", ".join(
        f"{name} {_gib(size)}" for name, size in (training.held | training.coming | others).items() if size
    )
    adding = ", ".join(f"{name} {_gib(size)}" for name, size in training.update.items())
    whole = f"of the GPU's {_gib(total)} GiB training takes {named}, and an update adds {adding}"
    advice = "set model.lora_rank, optimizer.kind adamw_8bit or optimizer.offload true"
    if free - coming - spare < update:
        raise UserError(f"training does not fit: {whole}: {advice}")
    room = free - coming - spare - (0 if sleeps else update)
    if room < weights:
        raise UserError(
            f"rollout.engine = 'vllm' does not fit beside training: {whole}; {_gib(max(room, 0))} are left, and vLLM's "
            f"weights alone take {_gib(weights)}: {advice}, or use rollout.engine embedded"
        )
    share = math.floor(1000 * room / total) / 1000
    if asked is not None and asked * total > room + spare:
        raise UserError(
            f"rollout.vllm: gpu_memory_utilization = {asked} does not fit beside training: {whole}: give {share} or "
            "less, or leave it out"
        )
    share = share if asked is None else asked
    taken = f"vLLM takes {_gib(int(share * total))} (gpu_memory_utilization {share})"
    return share, f"GPU memory: {whole}{' while vLLM sleeps' if sleeps else ''}; {taken}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"


def _check_head_width(vlm: VisionLanguageModel) -> None:
    """Refuse heads that vLLM's CPU attention would fail with at the first token.

    Raises:
        UserError: The model has such heads.
    """
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    text = vlm.model.config.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    known = CPUAttentionBackend.get_supported_head_sizes()
    if width not in known:
        raise UserError(
            f"rollout.engine = 'vllm': vLLM's CPU build does not support attention heads of width {width}, which this "
            f"model has; it supports {', '.join(map(str, known))}; use 'embedded'"
        )


def _import_vllm() -> Any:
    """Import vLLM.

    Raises:
        UserError: It is missing or too old; names the extra to install.
    """
    extra, index = ("vllm", ()) if torch.cuda.is_available() else ("vllm-cpu", (_CPU_INDEX,))
    try:
        import vllm
        import vllm.engine.arg_utils  # with what vLLM itself imports late
    except ImportError as error:
        why = "" if error.name == "vllm" else f", and this one cannot be imported ({short_reason(error)})"
        raise UserError(f"rollout.engine = 'vllm' needs vLLM{why}: {how_to_install(extra, *index)}") from error
    if Version(vllm.__version__.split("+")[0]) < Version(_OLDEST):
        raise UserError(
            f"rollout.engine = 'vllm' needs vLLM {_OLDEST} or newer, this is {vllm.__version__}: "
            f"{how_to_install(extra, '--upgrade', *index)}"
        )
    return vllm


def _memory_advice(error: Exception) -> str:
    """Return which settings to change where memory is what vLLM lacks; else nothing."""
    if "memory" not in str(error).lower():
        return ""
    share = "gpu_memory_utilization" if torch.cuda.is_available() else "kv_cache_memory_bytes"
    return f": change rollout.vllm.{share}, or lower max_new_tokens and data.max_prompt_tokens"


def short_reason(error: Exception) -> str:
    """Return what an error says, on one line and not too long."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
