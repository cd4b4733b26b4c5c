"""vLLM as the sampler: in this process, with a copy of the weights of the model that is trained.

Log-probabilities are those of the distribution that was really sampled from, after temperature, top-p, top-k and the
suppressed tokens. New weights replace the old ones in place, and vLLM forgets what it computed with the old ones
(prefixes, image features).

Where the code rests on how vLLM works inside, comments name the file in vLLM 0.32.
"""

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from observe_r1.config import QuestionSettings, SamplerSettings
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.records import Completion, Prompt, Sampling
from observe_r1.rollout.engine import Done, OnGroup, RefusedPromptError, TrainingMemory, generate_in_steps, unheard
from observe_r1.rollout.vllm_start import short_reason, start_vllm


class VLLMEngine:
    """Samples with a copy of `vlm`'s weights: at first those on disk; `load_weights` brings it up to date.

    Args:
        vlm: Whose folder or Hub name, tokens and pixel bounds it takes.
        arguments: Of vLLM's `LLM`, by vLLM's own names; they override the defaults here.
        max_model_len: Tokens of the longest prompt and response together.
        dtype: Compute type.
        training: What is trained on the same GPU; None if nothing is, and vLLM may take the whole GPU for good.
        note: Told in one line how the GPU's memory is shared out.
        gpus: Over which its layers are split. With more than one, new weights come by vLLM's transfer alone.

    Raises:
        UserError: vLLM is missing, broken or too old, refuses an argument, or does not start, for want of memory, say.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        arguments: Mapping[str, Any],
        *,
        max_model_len: int,
        dtype: torch.dtype,
        training: TrainingMemory | None = None,
        note: Callable[[str], None] = unheard,
        gpus: int = 1,
    ) -> None:
        self.vlm = vlm
        self.finished = 0
        self._dtype = dtype
        self._asleep = False
        self._taken = 0
        self._asked: dict[int, Done] = {}
        started = start_vllm(vlm, arguments, max_model_len, dtype, training, note, gpus)
        self._engine, self._threads, self._can_sleep = started
        self._loads = 0
        self.version = 0

    @classmethod
    def from_settings(
        cls,
        vlm: VisionLanguageModel,
        rollout: SamplerSettings,
        data: QuestionSettings,
        dtype: torch.dtype,
        training: TrainingMemory | None = None,
        note: Callable[[str], None] = unheard,
        gpus: int = 1,
    ) -> "VLLMEngine":
        """Return the engine that `rollout.vllm` describes, with room for the longest prompt and response."""
        longest = data.max_prompt_tokens + rollout.max_new_tokens
        return cls(vlm, rollout.vllm, max_model_len=longest, dtype=dtype, training=training, note=note, gpus=gpus)

    @property
    def version(self) -> int:
        """Of the weights; vLLM notes it with every token, which bears the next one if its step has begun before."""
        return int(self._engine.get_weight_version())

    @version.setter
    def version(self, version: int) -> None:
        self._engine.set_weight_version(str(version))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over `weights`, named as in transformers, and forget what the old ones computed; see `CopyingEngine`."""
        self.wake_weights()
        self.call_workers("reload_weights", weights_iterator=weights)
        self.forget()

    def wake_weights(self) -> None:
        """Make room for new weights, once nothing computes with the old ones.

        On a GPU vLLM begins a step before it has the last one's tokens (`step_with_batch_queue` in
        vllm/v1/engine/core.py), and NCCL writes weights on streams that do not wait for it. Asleep it has no such step.

        The cache wakes last (`forget`), so that it and what loading needs are never there at once. Whatever else sleeps
        wakes with the weights (vllm/device_allocator/cumem.py, `wake_up`).
        """
        if self._asleep:
            self._engine.wake_up(["weights"])
        else:
            self.call_workers("synchronize_device")

    def call_workers(self, method: str, **arguments: Any) -> None:
        """Call `method` of each of vLLM's workers."""
        with _threads(self._threads):
            self._engine.collective_rpc(method, kwargs=arguments)

    def forget(self) -> None:
        """Wake the cache, and let no later prompt use what was computed up to now: prefixes and features of images.

        Responses in flight still need theirs. vLLM keeps those, but under names that no later prompt has, and they
        leave its caches as others need the room.
        """
        if self._asleep:
            self._engine.wake_up(["kv_cache"])
            self._asleep = False
        self._loads += 1
        if self._asked:
            return
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM still has a request, and would sample from prefixes computed with old weights")
        self._engine.reset_mm_cache()
        self._engine.reset_encoder_cache()

    def sleep(self) -> None:
        """Give the GPU's memory back until the next `load_weights`; on the CPU nothing happens."""
        if self._can_sleep and not self._asleep:
            self._engine.sleep(level=2)
            self._asleep = True

    def close(self) -> None:
        """End vLLM and give all its memory back, so that another engine can start in this process.

        What vLLM shares between the engines of a process goes, too: close one before the next starts.
        """
        self._engine.engine_core.shutdown()
        del self._engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def rows(self) -> int:
        """See `SteppedEngine`."""
        return self._engine.vllm_config.scheduler_config.max_num_seqs

    @property
    def unfinished(self) -> int:
        """See `SteppedEngine`; each response is a request there."""
        return self._engine.get_num_unfinished_requests()

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None = None
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions per prompt; see `Engine.generate`."""
        return generate_in_steps(self, prompts, sampling, on_group)

    def add(self, prompt: Prompt, sampling: Sampling, done: Done) -> int:
        """Take a prompt in; see `SteppedEngine`."""
        from vllm.exceptions import VLLMClientError

        self._taken += 1
        try:
            # Handed preprocessed images, vLLM does not count them itself.
            self._engine.renderer.get_mm_processor().info.validate_num_items("image", len(prompt.image_digests))
            self._engine.add_request(str(self._taken), self.engine_input(prompt), self.parameters(prompt, sampling))
        except (VLLMClientError, ValueError) as error:  # too many images, or over a `max_model_len` of the user's
            reason = f"rollout.vllm: vLLM refuses the prompt: {short_reason(error)}"
            raise RefusedPromptError(self._taken, reason) from error
        self._asked[self._taken] = done
        return self._taken

    def step(self) -> None:
        """Draw one token of each response, or compute prompts; see `SteppedEngine`."""
        before = self.unfinished
        with _threads(self._threads):
            outputs = self._engine.step()
        self.finished += before - self.unfinished
        ended = [(self._asked.pop(int(each.request_id)), each.outputs) for each in outputs if each.finished]
        for done, responses in ended:
            done([self._completion(response) for response in responses])

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget prompts; see `SteppedEngine`."""
        gone = [number for number in numbers if self._asked.pop(number, None)]
        self._engine.abort_request([str(number) for number in gone])

    def engine_input(self, prompt: Prompt) -> Any:
        """Return `prompt` as vLLM's own preprocessing would: image tokens expanded, pixels beside them.

        vLLM takes such inputs as they are (`process_inputs` in vllm/v1/engine/input_processor.py). From raw images it
        would make them in series, ahead of its first step.
        """
        from vllm.inputs.engine import mm_input, tokens_input
        from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange

        ids, loads = prompt.ids.tolist(), str(self._loads)
        if prompt.pixel_values is None or prompt.image_grid is None:
            return tokens_input(ids, cache_salt=loads)
        patches = prompt.image_grid.prod(dim=1)
        # As `_create_qwen2vl_field_factory` in vllm/model_executor/models/qwen2_vl.py, which Qwen2.5, 3 and 3.5 share.
        tensors = {"pixel_values": prompt.pixel_values.to(self._dtype), "image_grid_thw": prompt.image_grid}
        fields = {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", patches),
            "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }
        lengths = (patches // self.vlm.processor.image_processor.merge_size**2).tolist()
        tokens = prompt.token_types.nonzero()[:, 0].split(lengths)
        places = [PlaceholderRange(offset=int(each[0]), length=len(each)) for each in tokens]
        return mm_input(
            prompt_token_ids=ids,
            mm_kwargs=MultiModalKwargsItems.from_hf_inputs(tensors, fields),
            # vLLM keeps features and prefixes by them.
            mm_hashes={"image": [f"{digest.hex()}-{loads}" for digest in prompt.image_digests]},
            mm_placeholders={"image": places},
            cache_salt=loads,
        )

    def parameters(self, prompt: Prompt, sampling: Sampling) -> Any:
        """Return vLLM's `SamplingParams` for the responses to `prompt`."""
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
            # Added to the logits before anything else looks at them, in either model runner: `LogitBiasLogitsProcessor`
            # in vllm/v1/sample/logits_processor/builtin.py, `_bias_kernel` in vllm/v1/worker/gpu/sample/logit_bias.py.
            # Only `SamplingParams.from_optional` would clip it to -100.
            logit_bias=dict.fromkeys(self.vlm.suppressed_ids, -math.inf),
            logprobs=0,  # of the sampled token alone
            output_kind=RequestOutputKind.FINAL_ONLY,  # all of a prompt's responses together
        )

    def _completion(self, response: Any) -> Completion:
        ids = list(response.token_ids)
        logprobs = [entry[token].logprob for token, entry in zip(ids, response.logprobs, strict=True)]
        spans = [(int(span.version), span.end - span.start) for span in response.weight_versions]
        versions = [version for version, count in spans for _ in range(count)]
        return Completion(
            ids=torch.tensor(ids),
            logprobs=torch.tensor(logprobs),
            text=self.vlm.processor.tokenizer.decode(ids, skip_special_tokens=True),
            version=versions[0],
            finish="length" if response.finish_reason == "length" else "stop",
            versions=None if versions[0] == versions[-1] else torch.tensor(versions),
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads during the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
