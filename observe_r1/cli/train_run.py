"""The parts of a training run, put together on one machine."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from observe_r1.cli import parts
from observe_r1.config import TrainSettings
from observe_r1.data import load_data
from observe_r1.errors import UserError
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.policy.policy import Policy
from observe_r1.policy.scoring import GroupScorer
from observe_r1.records import Example, Prompt
from observe_r1.registry import load
from observe_r1.rewards import Scorer, verifiable
from observe_r1.training.batches import Batcher
from observe_r1.training.interrupt import StopRequest
from observe_r1.training.loop import RunLength, train
from observe_r1.training.progress import Progress
from observe_r1.training.prompts import Encode
from observe_r1.training.run_folder import RunFolder
from observe_r1.training.sampler import GroupSampler
from observe_r1.training.weight_sync import SharedWeights


def train_model(settings: TrainSettings, label: str = "train") -> int:
    """Train as `settings` say, writing the run folder. Returns 0, or 130 where Ctrl-C ended it early."""
    run = settings.run
    parts.prepare_process(run)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(run.output, settings, run.resume))
        examples = load_data(settings.data, run.seed)
        length = RunLength(run, len(examples))
        policy, reference = load_policy(settings)
        vlm, rollout = policy.scorer.vlm, settings.rollout
        engine = load("engine", rollout.engine)(vlm, max_rows=rollout.max_rows, dtype=policy.scorer.dtype)
        scorer = stack.enter_context(Scorer(settings.rewards))
        view = stack.enter_context(Progress(label, run.steps))
        stop = stack.enter_context(StopRequest())

        encode = checked_encode(vlm.processor, settings)
        stream = parts.prompt_stream(examples, encode, settings.data, run.seed, length.prompts, view.note)
        stack.callback(stream.close)
        sampler = GroupSampler(engine, stream, scorer, rollout, settings.objective, run.seed)
        record = stack.enter_context(parts.Record(folder, run, policy, sampler, encode, view))
        with parts.saving(vlm, folder, settings.data, stream, stop, record):

            def on_step(step: int, metrics: dict[str, float], rows: Sequence[dict[str, Any]]) -> None:
                folder.write_rollouts(step, rows)
                record.step_done(step, metrics)

            batcher = Batcher(settings, policy.scorer, reference)
            train(policy, sampler, batcher, SharedWeights(engine), length, on_step, stop, record.step)
    print(record.line)
    return 130 if stop.requested else 0


def load_policy(settings: TrainSettings) -> tuple[Policy, GroupScorer | None]:
    """Load the policy, and the frozen model it starts from where a KL term needs a reference."""
    temperature, dtype = settings.rollout.temperature, parts.compute_dtype(settings.model)
    vlm = load_model(settings.model)
    policy = Policy(vlm, settings.optimizer, settings.objective, temperature=temperature, dtype=dtype)
    if settings.objective.kl_coef == 0:
        return policy, None
    frozen = load_model(settings.model)
    frozen.model.requires_grad_(False)
    return policy, GroupScorer(frozen, settings.optimizer, temperature=temperature, dtype=dtype)


def checked_encode(processor: Any, settings: TrainSettings) -> Encode:
    """Return the encoding of an example, which refuses a gold answer that no response could be compared with."""

    def encode(example: Example, draw: int) -> Prompt:
        if not verifiable(example.answer):
            raise UserError(
                f"{example.origin}: the gold answer {example.answer!r:.80} cannot be verified: correct it or drop "
                "the row; a letter, number, formula or short phrase can"
            )
        return encode_prompt(example, processor, settings.data, draw)

    return encode
