"""What the embedded engine keeps of prompts and responses from one token to the next.

Under any attention a prompt is computed once for all of its responses. Under `shared_prefix` it is also stored once,
and responses to several prompts are decoded together:

    SharedCache     for `shared_prefix`; on a GPU it replays a step as a CUDA graph (`ReplayedStep`)
    CopiedCache     for any other attention: transformers' own cache

No step waits for the device: how long rows are, and to which prompts they belong, is counted on the CPU.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from observe_r1.model.device import to_device
from observe_r1.model.families import shares_prefix
from observe_r1.model.forward import encode_images, hidden_states
from observe_r1.model.head import head_logits
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.records import Prompt
from observe_r1.rollout.decode_layout import DecodeLayout, PrefillLayout

_PLAIN_STEPS = 3
"""Steps on the same storage before one is recorded as a CUDA graph. Recording takes as long as several steps: storage
that soon changes again is not worth it."""


class ResponseCache(Protocol):
    """The state of B responses. A step adds one token to each."""

    takes_more: bool
    """Whether prompts enter several at a time, and while responses to others are being decoded."""

    def admit(self, prompts: Sequence[Prompt], positions: Sequence[Tensor], responses: int) -> Tensor:
        """Compute prompts and add rows for their responses.

        Args:
            prompts: N prompts.
            positions: (3, P) int64 of each prompt.
            responses: Rows to add for each prompt.

        Returns:
            (N, vocabulary) float32: the logits of each prompt's first response token.
        """
        ...

    def step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Compute one token of each row.

        Args:
            ids: (B,) int64 tokens, on the model's device.
            positions: (B,) int64, where they are, on the model's device.

        Returns:
            (B, vocabulary) float32: the logits of each row's next token. Valid until the next step.
        """
        ...

    def keep(self, rows: Tensor) -> None:
        """Keep only `rows`: (K,) int64 indices, ascending, on the CPU."""
        ...


def response_cache(vlm: VisionLanguageModel, *, cuda_graphs: bool) -> ResponseCache:
    """Return an empty cache of the kind that suits the model's attention; see `SharedCache` for `cuda_graphs`."""
    return SharedCache(vlm, cuda_graphs=cuda_graphs) if shares_prefix(vlm.model) else CopiedCache(vlm)


class SharedCache:
    """For the `shared_prefix` attention: each prompt is stored once, beside others.

    Args:
        vlm: The model.
        cuda_graphs: Record a step as a CUDA graph, and replay it while the same rows are in the same storage. One
            launch then replaces thousands, each of which takes the CPU longer than the GPU needs for the kernel.
    """

    takes_more = True

    def __init__(self, vlm: VisionLanguageModel, *, cuda_graphs: bool) -> None:
        self.vlm = vlm
        self.layout = DecodeLayout(vlm.device, whole=cuda_graphs)
        self._replayed = ReplayedStep() if cuda_graphs else None

    def admit(self, prompts: Sequence[Prompt], positions: Sequence[Tensor], responses: int) -> Tensor:
        """See `ResponseCache`; the prompts are packed into one sequence."""
        device = self.vlm.device
        prefill = PrefillLayout([len(p.ids) for p in prompts], device)
        hidden = hidden_states(
            self.vlm.model,
            to_device(torch.cat([p.ids for p in prompts])[None], device),
            to_device(torch.cat(list(positions), dim=1)[:, None], device),
            images=encode_images(self.vlm, prompts),
            layout=prefill,
        )
        self.layout.admit(prefill, responses)
        self._forget_graph()
        last = to_device(torch.tensor(prefill.prompts).cumsum(0) - 1, device)
        return head_logits(self.vlm.model, hidden[0, last])

    def step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """See `ResponseCache`."""
        if self.layout.make_room():
            self._forget_graph()
        if self._replayed is None:
            return self._compute(ids, positions)
        return self._replayed(self._compute, ids, positions)

    def keep(self, rows: Tensor) -> None:
        """See `ResponseCache`."""
        self.layout.keep(rows)
        self._forget_graph()

    def _compute(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The step's work on the device; what it reads and writes besides its arguments belongs to the layout."""
        self.layout.begin_token()
        hidden = hidden_states(self.vlm.model, ids[:, None], _on_all_axes(positions), layout=self.layout)
        self.layout.end_token()
        return head_logits(self.vlm.model, hidden[:, 0])

    def _forget_graph(self) -> None:
        """Start over: storage, rows or prompts have changed."""
        if self._replayed is not None:
            self._replayed = ReplayedStep()


class ReplayedStep:
    """A step that is computed plainly a few times, which also warms its kernels up, then recorded as a CUDA graph.

    From then on the graph is replayed: the same kernels on the same addresses. So the step must depend on nothing but
    its arguments, which are copied to where the graph reads them, and on tensors that stay where they are. Recording
    computes nothing: the step that is recorded happens in the first replay.

    The step is an argument of each call. If this object held it, cache and graph would refer to each other, and Python
    would free their memory only when it next looks for cycles.
    """

    def __init__(self) -> None:
        self._plain = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        """Return `step(*arguments)`; once recorded, always in the same tensor."""
        if self._plain < _PLAIN_STEPS:
            self._plain += 1
            return step(*arguments)
        if self._graph is None:
            self._arguments = [argument.clone() for argument in arguments]
            graph = torch.cuda.CUDAGraph()
            # By default an allocation in any other thread would break the recording.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._result = step(*self._arguments)
            self._graph = graph
        for kept, argument in zip(self._arguments, arguments, strict=True):
            kept.copy_(argument)
        self._graph.replay()
        return self._result


class CopiedCache:
    """For any other attention: transformers' own cache of one prompt, copied for each of its responses.

    Its rows have all seen equally many tokens: a recurrent state could not tell padding from text.
    """

    takes_more = False

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self.vlm = vlm

    def admit(self, prompts: Sequence[Prompt], positions: Sequence[Tensor], responses: int) -> Tensor:
        """See `ResponseCache`; N is 1, and what was here before is forgotten."""
        (prompt,), (axes,) = prompts, positions
        model, device = self.vlm.model, self.vlm.device
        self.cache = DynamicCache(config=model.config)
        ids, images = to_device(prompt.ids[None], device), encode_images(self.vlm, prompts)
        hidden = hidden_states(model, ids, to_device(axes[:, None], device), images=images, cache=self.cache)
        self.keep(torch.zeros(responses, dtype=torch.long))
        return head_logits(model, hidden[:, -1])

    def step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """See `ResponseCache`."""
        hidden = hidden_states(self.vlm.model, ids[:, None], _on_all_axes(positions), cache=self.cache)
        return head_logits(self.vlm.model, hidden[:, 0])

    def keep(self, rows: Tensor) -> None:
        """See `ResponseCache`; an index may come more than once."""
        self.cache.reorder_cache(to_device(rows, self.vlm.device))


def _on_all_axes(positions: Tensor) -> Tensor:
    """(B,) → (3, B, 1): text moves along M-RoPE's axes together."""
    return positions.expand(3, -1)[:, :, None]
