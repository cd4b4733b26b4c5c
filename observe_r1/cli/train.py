"""`observe-r1 train`: reinforcement learning on questions with verifiable answers."""

import contextlib
from collections.abc import Sequence
from typing import Any

from observe_r1.cli.options import parse_settings
from observe_r1.config import TrainSettings
from observe_r1.errors import UserError
from observe_r1.records import Example, Prompt


def run(argv: list[str]) -> int:
    """Parse the settings and train. Returns 0, or 130 after Ctrl-C."""
    settings = parse_settings(TrainSettings, argv, verb="train")
    return train_model(settings)


def train_model(settings: TrainSettings, label: str = "train") -> int:
    """Train as `settings` say, writing the run folder. Returns 0, or 130 where Ctrl-C ended it early."""
    from observe_r1.cli import parts
    from observe_r1.data import load_data
    from observe_r1.model.encoding import encode_prompt
    from observe_r1.model.loading import load_model
    from observe_r1.policy.policy import Policy
    from observe_r1.policy.scoring import GroupScorer
    from observe_r1.registry import load
    from observe_r1.rewards import Scorer, verifiable
    from observe_r1.training.batches import Batcher
    from observe_r1.training.checkpoints import Checkpoints
    from observe_r1.training.interrupt import StopRequest
    from observe_r1.training.loop import RunLength, train
    from observe_r1.training.progress import Progress
    from observe_r1.training.resume import RunState
    from observe_r1.training.run_folder import RunFolder
    from observe_r1.training.sampler import GroupSampler
    from observe_r1.training.sinks import open_sinks
    from observe_r1.training.weight_sync import SharedWeights

    parts.prepare_process(settings.run)
    examples = load_data(settings.data, settings.run.seed)
    vlm = load_model(settings.model)
    temperature, dtype = settings.rollout.temperature, parts.compute_dtype(settings.model)
    policy = Policy(vlm, settings.optimizer, settings.objective, temperature=temperature, dtype=dtype)
    reference = None
    if settings.objective.kl_coef > 0:
        frozen = load_model(settings.model)
        frozen.model.requires_grad_(False)
        reference = GroupScorer(frozen, settings.optimizer, temperature=temperature, dtype=dtype)
    engine = load("engine", settings.rollout.engine)(vlm, max_rows=settings.rollout.max_rows, dtype=dtype)
    length = RunLength(settings.run, len(examples))

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(RunFolder(settings.run.output, settings, settings.run.resume))
        scorer = stack.enter_context(Scorer(settings.rewards))
        view = stack.enter_context(Progress(label, settings.run.steps))
        stop = stack.enter_context(StopRequest())

        def encode(example: Example, draw: int) -> Prompt:
            if not verifiable(example.answer):
                raise UserError(
                    f"{example.origin}: the gold answer {example.answer!r:.80} cannot be verified: correct it or drop "
                    "the row; a letter, number, formula or short phrase can"
                )
            return encode_prompt(example, vlm.processor, settings.data, draw)

        stream = parts.prompt_stream(examples, encode, settings.data, settings.run.seed, length.prompts, view.note)
        stack.callback(stream.close)
        sampler = GroupSampler(engine, stream, scorer, settings.rollout, settings.objective, settings.run.seed)
        state = RunState(Checkpoints(folder.checkpoints, settings.run.keep), policy, sampler, encode)
        start = state.restore(view.note) if settings.run.resume else 0
        folder.cut_back(start)
        sinks = open_sinks(folder.path, settings.run)
        for sink in sinks:
            stack.callback(sink.close)

        batcher = Batcher(settings, policy.scorer, reference)
        with parts.saving(vlm, folder, settings.data, stream, stop) as outcome:
            outcome.steps = start

            def on_step(step: int, metrics: dict[str, float], rows: Sequence[dict[str, Any]]) -> None:
                outcome.steps = step
                folder.write_rollouts(step, rows)
                for sink in sinks:
                    sink.write(step, metrics)
                view.update(step, metrics)
                if step % settings.run.save_every == 0 or stop.requested or length.reached(step, sampler):
                    state.save(step)

            train(policy, sampler, batcher, SharedWeights(engine), length, on_step, stop, start)
    print(outcome.line)
    return 130 if stop.requested else 0
