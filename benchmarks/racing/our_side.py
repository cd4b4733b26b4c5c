"""Our side of the race: the parts that `observe-r1 train` puts together, with scripted responses."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from observe_r1.config import TrainSettings
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.policy.policy import Policy
from observe_r1.records import Completion, Example, Group, Prompt, TrainingBatch, TrainingGroup
from observe_r1.rewards import PendingScores, Scorer, Scores
from observe_r1.rollout import embedded
from observe_r1.rollout.engine import sampling_of
from observe_r1.run.setup import prompt_stream
from observe_r1.training.loop import Batcher
from observe_r1.training.sampler import GroupSampler
from racing.work import Script


class OurSide:
    """Model, policy, engine and the rest of a training run.

    Args:
        settings: those of `observe-r1 train`.
        examples: as many as a step has prompts.
        scorer: of the rewards in `settings`.
        placeholders: give image placeholders a probability, as the peer does; no given response has one.
    """

    def __init__(
        self, settings: TrainSettings, examples: Sequence[Example], scorer: Scorer, *, placeholders: bool = False
    ) -> None:
        self.settings = settings
        self.vlm = load_model(settings.model)
        if placeholders:
            self.vlm = replace(self.vlm, suppressed_ids=())
        dtype = getattr(torch, settings.model.dtype)
        self.policy = Policy(self.vlm, settings.optimizer, settings.objective, dtype=dtype)
        self.engine = embedded.EmbeddedEngine.from_settings(self.vlm, settings.rollout, settings.data, dtype)
        self.examples = examples
        self.prompts = [self._encode(example, draw) for draw, example in enumerate(examples)]
        self.scorer = ScriptedScorer(scorer)
        self.stream = prompt_stream(examples, self._encode, settings.data, 0, None, print)
        self.sampler = GroupSampler(self.engine, self.stream, self.scorer, settings.rollout, settings.objective, 0)
        self.batcher = Batcher(settings, self.policy, None)

    def follow(self, script: Script) -> None:
        """Make responses as long and as correct as `script` says; prompts come in the order of the examples."""
        embedded._Batch = scripted_batch(script)  # type: ignore[misc]
        self.scorer.script = script

    def sample(self) -> list[list[Completion]]:
        """Sample the script's responses to the first prompts."""
        count, size = self.scorer.script.lengths.shape
        sampling = sampling_of(self.settings.rollout, n=size, seed=0)
        return self.engine.generate(self.prompts[:count], sampling)

    def update(self, batch: TrainingBatch) -> dict[str, float]:
        """Take one optimizer step on responses given."""
        return self.policy.update(batch)

    def step(self) -> list[Group]:
        """Sample, score and update, as one turn of the training loop does."""
        groups = self.sampler.next_groups()
        for batch in self.batcher.batches(groups, (0.5, 0.5)):
            self.policy.update(batch)
        return groups

    def _encode(self, example: Example, draw: int) -> Prompt:
        return encode_prompt(example, self.vlm.processor, self.settings.data, draw)


def scripted_batch(script: Script) -> type[embedded._Batch]:
    """Return the engine's batch, whose responses end where `script` says instead of at an end-of-turn token.

    Each call takes as many prompts as the script has; their streams count them.
    """

    class ScriptedBatch(embedded._Batch):
        def _finish(self, row: embedded._Row) -> str:
            return (
                "stop"
                if len(row.ids) == script.lengths[row.request.prompt.stream % len(script.lengths), row.number]
                else ""
            )

    return ScriptedBatch


class ScriptedScorer:
    """Scores every response with `scorer`, waits for it, and then says what the script says."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.script = Script(torch.ones(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))

    def submit(self, responses: Sequence[str], example: Example, prompt: str = "") -> "ScriptedScores":
        """Start to score one group."""
        correct = self.script.correct[int(example.id) % len(self.script.correct)]
        return ScriptedScores(self.scorer.submit(responses, example, prompt), correct)


class ScriptedScores:
    """Pending scores that the script replaces once they have arrived."""

    def __init__(self, pending: PendingScores, correct: Tensor) -> None:
        self.pending = pending
        self.correct = correct

    def result(self) -> Scores:
        """Wait for the real scores, then return the scripted ones."""
        scores = self.pending.result()
        return replace(scores, correct=self.correct.tolist(), total=self.correct.float().tolist())


def given_batch(prompts: Sequence[Prompt], responses: Sequence[Tensor], advantages: Tensor) -> TrainingBatch:
    """Return a batch for one optimizer step in which each response's mean has the same weight.

    Args:
        prompts: P of them.
        responses: P·G token ids (R,), group by group.
        advantages: (P, G).
    """
    groups = []
    for index, (prompt, values) in enumerate(zip(prompts, advantages, strict=True)):
        ids = responses[index * len(values) : (index + 1) * len(values)]
        lengths = torch.tensor([len(one) for one in ids])
        completions = tuple(Completion(one, torch.zeros(len(one)), "", version=0, finish="stop") for one in ids)
        example = Example(id="", messages=(), images=(), answer="")
        nothing = torch.zeros(len(ids))
        group = Group(example, prompt, completions, nothing, nothing.bool(), nothing, 1.0, values)
        weights = (1 / (lengths * advantages.numel())).repeat_interleave(lengths)
        sampled = torch.zeros(int(lengths.sum()))
        groups.append(TrainingGroup(group, values.repeat_interleave(lengths), weights, sampled))
    return TrainingBatch(tuple(groups), learning_rate=1e-6)
