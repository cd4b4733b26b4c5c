"""The embedded engine: samples from the model being trained, in its own process.

A prompt is computed once and its cache shared by its G responses; finished rows leave the batch, waiting prompts enter.
On a GPU the CPU reads tokens every few steps only, because each reading waits for the GPU.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from observe_r1.config import QuestionSettings, SamplerSettings
from observe_r1.model.device import to_device
from observe_r1.model.forward import rope_positions
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.records import Completion, Prompt, Sampling
from observe_r1.rollout.caches import response_cache
from observe_r1.rollout.engine import (
    Done,
    OnGroup,
    TrainingMemory,
    generate_in_steps,
    next_tokens,
    response_uniforms,
    unheard,
)

_PREFILL_TOKENS = 16384  # prompts computed at once
_FINISHED_SHARE = 8  # rows leave once one in so many has finished: each leaving copies the cache
_STEPS_AHEAD = 8  # on a GPU, before the CPU reads tokens; those that a row draws after its end are dropped


@dataclass(slots=True, eq=False)
class _Request:
    """A prompt whose responses are asked for."""

    number: int
    prompt: Prompt
    sampling: Sampling
    done: Done
    group: dict[int, Completion] = field(default_factory=dict)


@dataclass(slots=True)
class _Row:
    """One response being drawn."""

    request: _Request
    number: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    finish: str = ""


class EmbeddedEngine:
    """Samples with `vlm`'s current weights, in the type that they are held in; new weights are a new version number.

    Args:
        vlm: The model being trained.
        max_rows: Responses decoded at once.
        cuda_graphs: On a GPU, replay a decoding step as a CUDA graph. Quantized models compute without: their kernels
            may wait for the device.
    """

    def __init__(self, vlm: VisionLanguageModel, *, max_rows: int = 256, cuda_graphs: bool = True) -> None:
        on_gpu = vlm.device.type == "cuda"
        self.vlm = vlm
        self.max_rows = max_rows
        self.cuda_graphs = cuda_graphs and on_gpu and not getattr(vlm.model, "is_quantized", False)
        self.steps_ahead = _STEPS_AHEAD if on_gpu else 1
        self.version = self.finished = 0
        self._waiting: deque[_Request] = deque()
        self._batch: _Batch | None = None
        self._taken = 0

    @classmethod
    def from_settings(
        cls,
        vlm: VisionLanguageModel,
        rollout: SamplerSettings,
        data: QuestionSettings,
        dtype: torch.dtype,
        training: TrainingMemory | None = None,
        note: Callable[[str], None] = unheard,
    ) -> "EmbeddedEngine":
        """Return the engine that decodes `rollout.max_rows` responses at once."""
        return cls(vlm, max_rows=rollout.max_rows, cuda_graphs=rollout.cuda_graphs)

    def close(self) -> None:
        """Do nothing: the model is the caller's."""

    @property
    def rows(self) -> int:
        """See `SteppedEngine`."""
        return self.max_rows

    @property
    def unfinished(self) -> int:
        """See `SteppedEngine`."""
        decoded = 0 if self._batch is None else sum(not row.finish for row in self._batch.rows)
        return decoded + sum(request.sampling.n for request in self._waiting)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None = None
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions of each prompt; see `Engine.generate`."""
        with _evaluating(self.vlm):
            return generate_in_steps(self, prompts, sampling, on_group)

    def add(self, prompt: Prompt, sampling: Sampling, done: Done) -> int:
        """Take a prompt in; see `SteppedEngine`. It waits while responses are drawn in another way than its own."""
        self._taken += 1
        self._waiting.append(_Request(self._taken, prompt, sampling, done))
        return self._taken

    @torch.no_grad()
    def step(self) -> None:
        """Draw one token of each response, a few on a GPU; see `SteppedEngine`."""
        if self._batch is None:
            if not self._waiting:
                return
            self._batch = _Batch(self, self._waiting, self._waiting[0].sampling)
        with _evaluating(self.vlm):
            ended = self._batch.advance()
        if not self._batch.rows:
            self._batch = None  # with its cache: between two calls the engine holds no memory
        for request in ended:
            request.done([request.group[number] for number in range(request.sampling.n)])

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget prompts; see `SteppedEngine`."""
        gone = set(numbers)
        self._waiting = deque(request for request in self._waiting if request.number not in gone)
        if self._batch is not None:
            self._batch.waiting = self._waiting
            if not self._batch.drop(gone):
                self._batch = None


@contextmanager
def _evaluating(vlm: VisionLanguageModel) -> Iterator[None]:
    """Put the model in evaluation mode: in training mode, layers under gradient checkpointing drop their cache."""
    training = vlm.model.training
    if training:  # walks through all modules
        vlm.model.eval()
    try:
        yield
    finally:
        if training:
            vlm.model.train()


class _Batch:
    """The B rows being decoded, all drawn in the same way, and the prompts still waiting.

    What the next step needs of each row is on the device, so that steps follow each other without waiting for the CPU:
    the last token and its position, how many tokens were drawn, and the random numbers to draw them by. The CPU reads
    tokens every few steps, and then finds which responses have ended. A response is the same however late it is read:
    its random numbers are its own, and tokens drawn after its end are dropped.
    """

    def __init__(self, engine: EmbeddedEngine, waiting: deque[_Request], sampling: Sampling) -> None:
        self.engine = engine
        self.vlm = engine.vlm
        self.max_rows = engine.max_rows
        self.sampling = sampling
        self.waiting = waiting
        self.ended: list[_Request] = []
        """Whose last response has ended in this step."""
        self.cache = response_cache(engine.vlm, cuda_graphs=engine.cuda_graphs)
        self.rows: list[_Row] = []
        device = self.vlm.device
        self.suppressed_ids = torch.tensor(self.vlm.suppressed_ids, dtype=torch.long, device=device)
        self.ids = torch.empty(0, dtype=torch.long, device=device)
        """(B,): the last token drawn for each row, not yet in the cache."""
        self.positions = torch.empty(0, dtype=torch.long, device=device)
        """(B,): where it is."""
        self.drawn = torch.empty(0, dtype=torch.long, device=device)
        """(B,): tokens drawn for each row, those beyond its end included."""
        self.uniforms = torch.empty(0, sampling.max_new_tokens, dtype=torch.float64, device=device)
        """(B, max_new_tokens): what each token of each row is drawn by."""
        self.unread: list[tuple[Tensor, Tensor]] = []
        """Tokens and log-probabilities of the steps that the CPU has not read."""

    def advance(self) -> list[_Request]:
        """Admit what has room, and take the steps up to the next reading; return the requests that have ended."""
        self.ended = []
        while self._admissible():
            self._admit()
        if any(not row.finish for row in self.rows):
            for _ in range(self._steps_to_next_reading()):
                self._step()
            self._read(first=0)
        self._leave()
        return self.ended

    def drop(self, numbers: set[int]) -> bool:
        """Forget the rows of these requests; return whether any others are left."""
        for row in self.rows:
            if row.request.number in numbers and not row.finish:
                row.finish = "dropped"
        self.unread.clear()
        return any(not row.finish for row in self.rows)

    def _admissible(self) -> bool:
        return bool(self.waiting) and self.waiting[0].sampling == self.sampling and self._has_room()

    def _has_room(self) -> bool:
        """Whether one more prompt fits beside what is being decoded; an empty batch takes any."""
        return not self.rows or (self.cache.takes_more and len(self.rows) + self.sampling.n <= self.max_rows)

    def _choose(self) -> list[_Request]:
        """Take as many waiting prompts as there is room for."""
        room = max(1, (self.max_rows - len(self.rows)) // self.sampling.n) if self.cache.takes_more else 1
        chosen = [self.waiting.popleft()]
        tokens = len(chosen[0].prompt.ids)
        while self.waiting and self.waiting[0].sampling == self.sampling and len(chosen) < room:
            tokens += len(self.waiting[0].prompt.ids)
            if tokens > _PREFILL_TOKENS:
                break
            chosen.append(self.waiting.popleft())
        return chosen

    def _admit(self) -> None:
        """Prefill waiting prompts and draw each response's first token."""
        chosen, count, device = self._choose(), self.sampling.n, self.vlm.device
        prompts = [request.prompt for request in chosen]
        positions = [rope_positions(self.vlm.model, prompt) for prompt in prompts]
        logits = self.cache.admit(prompts, positions, count).repeat_interleave(count, dim=0)

        first = len(self.rows)
        self.rows += [_Row(request, number) for request in chosen for number in range(count)]
        following = torch.tensor([int(p.max()) + 1 for p in positions]).repeat_interleave(count)
        uniforms = [response_uniforms(self.sampling, p.stream, number) for p in prompts for number in range(count)]
        self.positions = torch.cat([self.positions, to_device(following, device)])
        self.uniforms = torch.cat([self.uniforms, to_device(torch.stack(uniforms), device)])
        self.drawn = torch.cat([self.drawn, self.drawn.new_zeros(len(uniforms))])
        self.ids = torch.cat([self.ids, self._draw(logits, first)])
        self._read(first)
        self._leave()

    def _steps_to_next_reading(self) -> int:
        """How many steps to take before looking which rows have ended: none after the last row's limit."""
        longest = max(self.sampling.max_new_tokens - len(row.ids) for row in self.rows if not row.finish)
        return min(self.engine.steps_ahead, longest)

    def _step(self) -> None:
        """One forward over all rows, one token each. Nothing in it waits for the device."""
        logits = self.cache.step(self.ids, self.positions)
        self.positions = self.positions + 1
        self.ids = self._draw(logits, first=0)

    def _draw(self, logits: Tensor, first: int) -> Tensor:
        """Draw one token for each of the rows from `first` on, to be read later."""
        drawn = self.drawn[first:]
        at = drawn.clamp(max=self.sampling.max_new_tokens - 1)  # a row may draw on after its end
        uniforms = self.uniforms[first:].gather(1, at[:, None])[:, 0]
        drawn.add_(1)
        self.unread.append(next_tokens(logits, uniforms, self.sampling, self.suppressed_ids))
        return self.unread[-1][0]

    def _read(self, first: int) -> None:
        """Wait for the device, and give the rows from `first` on the tokens drawn since the last reading."""
        tokens, logprobs = (torch.stack(steps).tolist() for steps in zip(*self.unread, strict=True))
        self.unread.clear()
        for drawn in zip(tokens, logprobs, strict=True):
            for row, token, logprob in zip(self.rows[first:], *drawn, strict=True):
                if not row.finish:
                    row.ids.append(token)
                    row.logprobs.append(logprob)
                    row.versions.append(self.engine.version)
                    row.finish = self._finish(row)
                    if row.finish:
                        self._complete(row)

    def _finish(self, row: _Row) -> str:
        if row.ids[-1] in self.vlm.stop_ids or self._stop_string(row):
            return "stop"
        return "length" if len(row.ids) == self.sampling.max_new_tokens else ""

    def _stop_string(self, row: _Row) -> bool:
        """Whether the last token completes a stop string; every token is at least one byte, so a short tail will do."""
        if not self.sampling.stop:
            return False
        tail = max(len(stop.encode()) for stop in self.sampling.stop)
        text = self.vlm.processor.tokenizer.decode(row.ids[-tail:], skip_special_tokens=True)
        return any(stop in text for stop in self.sampling.stop)

    def _complete(self, row: _Row) -> None:
        group, versions = row.request.group, row.versions
        group[row.number] = Completion(
            ids=torch.tensor(row.ids),
            logprobs=torch.tensor(row.logprobs),
            text=self.vlm.processor.tokenizer.decode(row.ids, skip_special_tokens=True),
            version=versions[0],
            finish="stop" if row.finish == "stop" else "length",
            versions=None if versions[0] == versions[-1] else torch.tensor(versions),
        )
        self.engine.finished += 1
        if len(group) == self.sampling.n:
            self.ended.append(row.request)

    def _leave(self) -> None:
        """Drop finished rows from batch and cache, once they are many enough to be worth a copy."""
        staying = [i for i, row in enumerate(self.rows) if not row.finish]
        if len(staying) == len(self.rows) or (len(self.rows) - len(staying)) * _FINISHED_SHARE < len(self.rows):
            return
        self.rows = [self.rows[i] for i in staying]
        kept = torch.tensor(staying, dtype=torch.long)
        self.cache.keep(kept)
        kept = to_device(kept, self.vlm.device)
        self.ids, self.positions, self.drawn = self.ids[kept], self.positions[kept], self.drawn[kept]
        self.uniforms = self.uniforms[kept]
