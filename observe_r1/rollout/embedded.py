"""The embedded engine: samples from the model being trained, in its own process.

A prompt is computed once and its cache shared by its G responses; finished rows leave the batch, waiting prompts enter.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from observe_r1.config import QuestionSettings, SamplerSettings
from observe_r1.model.forward import rope_positions
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.records import Completion, Prompt, Sampling
from observe_r1.rollout.caches import response_cache
from observe_r1.rollout.engine import OnGroup, TrainingMemory, next_tokens, response_uniforms, unheard

_PREFILL_TOKENS = 16384  # prompts computed at once
_FINISHED_SHARE = 8  # rows leave once one in so many has finished: each leaving copies the cache


@dataclass(slots=True)
class _Row:
    """One response being drawn."""

    prompt: int
    number: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = ""


class EmbeddedEngine:
    """Samples with `vlm`'s current weights; publishing new ones is only a new version number."""

    def __init__(self, vlm: VisionLanguageModel, *, max_rows: int = 256, dtype: torch.dtype = torch.float32) -> None:
        self.vlm = vlm
        self.max_rows = max_rows
        self.dtype = dtype
        self.version = self.finished = 0

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
        return cls(vlm, max_rows=rollout.max_rows, dtype=dtype)

    def close(self) -> None:
        """Keep still: the model is the caller's."""

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None = None
    ) -> list[list[Completion]]:
        """Return `sampling.n` completions a prompt; see `Engine.generate`."""
        enabled = self.dtype != torch.float32
        training = self.vlm.model.training
        self.vlm.model.eval()  # in training mode, layers under gradient checkpointing drop transformers' own cache
        try:
            with torch.autocast(self.vlm.device.type, dtype=self.dtype if enabled else None, enabled=enabled):
                return _Batch(self, prompts, sampling, on_group).run()
        finally:
            self.vlm.model.train(training)


class _Batch:
    """One call of `generate`: the rows being decoded and the prompts still waiting."""

    def __init__(
        self, engine: EmbeddedEngine, prompts: Sequence[Prompt], sampling: Sampling, on_group: OnGroup | None
    ) -> None:
        self.engine = engine
        self.vlm = engine.vlm
        self.max_rows = engine.max_rows
        self.version = engine.version
        self.prompts = prompts
        self.sampling = sampling
        self.on_group = on_group
        self.waiting = deque(range(len(prompts)))
        self.done: list[dict[int, Completion]] = [{} for _ in prompts]
        self.cache = response_cache(engine.vlm)
        self.rows: list[_Row] = []
        self.uniforms = torch.empty(0, sampling.max_new_tokens, dtype=torch.float64)
        self.positions = torch.empty(0, dtype=torch.long, device=self.vlm.device)

    def run(self) -> list[list[Completion]]:
        """Decode until every response has ended."""
        while self.waiting or self.rows:
            while self.waiting and self._has_room():
                self._admit()
            if self.rows:
                self._step()
        return [[group[number] for number in sorted(group)] for group in self.done]

    def _has_room(self) -> bool:
        """Whether one more prompt fits beside what is being decoded; an empty batch takes any."""
        return not self.rows or (self.cache.takes_more and len(self.rows) + self.sampling.n <= self.max_rows)

    def _choose(self) -> list[int]:
        """Take as many waiting prompts as there is room for."""
        room = max(1, (self.max_rows - len(self.rows)) // self.sampling.n) if self.cache.takes_more else 1
        chosen = [self.waiting.popleft()]
        tokens = len(self.prompts[chosen[0]].ids)
        while self.waiting and len(chosen) < room:
            tokens += len(self.prompts[self.waiting[0]].ids)
            if tokens > _PREFILL_TOKENS:
                break
            chosen.append(self.waiting.popleft())
        return chosen

    def _admit(self) -> None:
        """Prefill waiting prompts and draw each response's first token."""
        chosen, count = self._choose(), self.sampling.n
        prompts = [self.prompts[i] for i in chosen]
        positions = [rope_positions(self.vlm.model, prompt) for prompt in prompts]
        hidden = self.cache.admit(prompts, positions, count)
        following = torch.tensor([int(p.max()) + 1 for p in positions], device=self.vlm.device)

        newcomers = [_Row(prompt, number) for prompt in chosen for number in range(count)]
        uniforms = [response_uniforms(self.sampling, self.prompts[r.prompt].stream, r.number) for r in newcomers]
        self.rows += newcomers
        self.uniforms = torch.cat([self.uniforms, torch.stack(uniforms)])
        self.positions = torch.cat([self.positions, following.repeat_interleave(count)])
        logits = self.vlm.model.lm_head(hidden).repeat_interleave(count, dim=0)
        self._draw(logits, first=len(self.rows) - len(newcomers))
        self._leave()

    def _step(self) -> None:
        """One forward over all rows, one token each."""
        ids = torch.tensor([row.ids[-1] for row in self.rows], device=self.vlm.device)
        hidden = self.cache.step(ids, self.positions)
        self.positions = self.positions + 1
        self._draw(self.vlm.model.lm_head(hidden), first=0)
        self._leave()

    def _draw(self, logits: Tensor, first: int) -> None:
        """Append one token to each of the rows from `first` on; rows already finished are only passing time."""
        rows = self.rows[first:]
        at = torch.tensor([len(row.ids) if not row.finish else 0 for row in rows])
        uniforms = self.uniforms[first:].gather(1, at[:, None])[:, 0]
        tokens, logprobs = next_tokens(logits, uniforms, self.sampling, self.vlm.suppressed_ids)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if not row.finish:
                row.ids.append(token)
                row.logprobs.append(logprob)
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
        group = self.done[row.prompt]
        group[row.number] = Completion(
            ids=torch.tensor(row.ids),
            logprobs=torch.tensor(row.logprobs),
            text=self.vlm.processor.tokenizer.decode(row.ids, skip_special_tokens=True),
            version=self.version,
            finish="stop" if row.finish == "stop" else "length",
        )
        self.engine.finished += 1
        if self.on_group is not None and len(group) == self.sampling.n:
            self.on_group(row.prompt, [group[number] for number in range(self.sampling.n)])

    def _leave(self) -> None:
        """Drop finished rows from batch and cache, once they are many enough to be worth a copy."""
        staying = [i for i, row in enumerate(self.rows) if not row.finish]
        if len(staying) == len(self.rows) or (len(self.rows) - len(staying)) * _FINISHED_SHARE < len(self.rows):
            return
        kept = torch.tensor(staying, dtype=torch.long)
        self.rows = [self.rows[i] for i in staying]
        self.uniforms = self.uniforms[kept]
        kept = kept.to(self.vlm.device)
        self.positions = self.positions[kept]
        self.cache.keep(kept)
