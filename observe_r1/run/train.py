"""A training run: its parts put together, in the order in which they can fail, and again if a rank is lost."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any

from observe_r1.cluster import RankLostError
from observe_r1.cluster.placement import open_ray, ray_answers, take_stock
from observe_r1.config import TrainSettings
from observe_r1.data import load_data
from observe_r1.data.format_prompts import asked_format
from observe_r1.errors import UserError
from observe_r1.model.device import with_dtype
from observe_r1.model.encoding import encode_prompt
from observe_r1.records import Example, Prompt
from observe_r1.rewards import Scorer
from observe_r1.rewards.accuracy import require_verifiable
from observe_r1.run import Ended
from observe_r1.run.folder import RunFolder
from observe_r1.run.held_out import HeldOutEvaluator, evaluation_rewards, load_held_out
from observe_r1.run.next_steps import next_steps
from observe_r1.run.progress import Progress
from observe_r1.run.recorder import Recorder
from observe_r1.run.setup import device_line, facts, prepare_process, prompt_stream
from observe_r1.training.ahead import AheadSampler
from observe_r1.training.loop import Batcher, GroupSource, RunLength, train
from observe_r1.training.parts import start_here
from observe_r1.training.prompts import PromptEncoder
from observe_r1.training.sampler import GroupSampler


def train_model(settings: TrainSettings, view: Progress) -> Ended:
    """Train as `settings` say, and write the run folder.

    Args:
        settings: Of the run.
        view: Shows it, and takes Ctrl-C; entered already.

    Raises:
        UserError: The user can correct it. What was learned before is saved.
        KeyboardInterrupt: Ctrl-C came before the first step, or twice.
    """
    settings = with_dtype(settings)
    run, view.steps = settings.run, settings.run.steps
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(run.output, settings, run.resume))
        view.now("reading the data")
        # First, because this checks the user's own rewards before anything is loaded for them.
        scorer = stack.enter_context(Scorer(settings.rewards))
        examples = load_data(settings.data, run.seed)
        if examples[0].response is not None:
            view.note(
                f"{examples[0].origin}: the chat ends with an assistant turn, a demonstration: it is left out, and "
                "responses are sampled (`observe-r1 sft` learns from demonstrations)"
            )
        settings, scorer.template, asked = with_template(settings, examples[0])
        folder.complete(settings, {"rewards.template": asked})
        require_rewarded(examples[0], scorer.template)
        questions = load_held_out(settings)
        grader = stack.enter_context(Scorer(evaluation_rewards(settings.rewards))) if questions is not None else None
        length = RunLength(run, len(examples))
        check_batch_sizes(settings, len(examples), length.prompts)
        if settings.cluster.used:
            view.now("starting Ray")
            device = stack.enter_context(open_ray(settings.cluster, settings.model.device))
            settings = settings.model_copy(update={"cluster": take_stock(settings.cluster, device)})
        prepared = Prepared(folder, examples, questions, scorer, grader, length)
        recorder, device = train_to_the_end(settings, prepared, view)
    view.close()
    print(recorder.line)
    if view.stop.requested:
        return Ended(130, "")  # the line above says how to go on
    return Ended(0, next_steps(settings, examples[0], device) if recorder.step else "")


@dataclass(frozen=True)
class Prepared:
    """What a run has before its model is loaded, and keeps if that must be loaded again."""

    folder: RunFolder
    examples: Sequence[Example]
    questions: Sequence[Example] | None
    scorer: Scorer
    grader: Scorer | None
    """Of the answers to the held-out `questions`, if there are any."""
    length: RunLength


def train_to_the_end(settings: TrainSettings, prepared: Prepared, view: Progress) -> tuple[Recorder, str]:
    """Train, and if a rank is lost start again from the last checkpoint.

    Returns:
        The recorder of the last start, and the kind of device that the model computed on.

    Raises:
        UserError: The user can correct it, Ray has ended, or ranks were lost more than `cluster.restarts` times.
        KeyboardInterrupt: A rank was lost, and the user had asked the run to stop.
    """
    for restarts in count(1):
        try:
            return train_once(settings, prepared, view)
        except RankLostError as error:
            if view.stop.requested:
                view.note(f"{error}; {view.resume_hint} continues from the last checkpoint")
                raise KeyboardInterrupt from error
            if not ray_answers():
                raise UserError(
                    f"Ray has ended: {error}; {view.resume_hint} continues from the last checkpoint"
                ) from error
            if restarts > settings.cluster.restarts:
                raise UserError(
                    f"a process was lost {restarts} times, over cluster.restarts = {settings.cluster.restarts}: "
                    f"at last: {error}; {view.resume_hint} continues from the last checkpoint"
                ) from error
            view.note(f"{error}; starting again from the last checkpoint ({restarts} of {settings.cluster.restarts})")
            settings = settings.model_copy(update={"run": settings.run.model_copy(update={"resume": True})})
    raise AssertionError("unreachable")


def train_once(settings: TrainSettings, prepared: Prepared, view: Progress) -> tuple[Recorder, str]:
    """Start what trains and samples, and train until the run ends or fails; see `train_to_the_end`."""
    run, stop, folder, length = settings.run, view.stop, prepared.folder, prepared.length
    prepare_process(run)
    stop.after("")  # before its checkpoint is loaded a run has nothing to save
    with ExitStack() as stack:
        if settings.cluster.used:
            from observe_r1.cluster.start import start_on_ray  # with Ray, which is an extra

            parts = stack.enter_context(start_on_ray(settings, view.now, view.note, lambda: stop.requested))
        else:
            parts = start_here(settings, view.now, view.note, device_line)
        view.about(**facts(settings, parts.line, len(prepared.examples)))
        stop.after("this step, then saving")
        encode = checked_encoder(parts.processor, settings, prepared.scorer.template)
        stream = prompt_stream(
            prepared.examples, encode, settings.data, run.seed, length.prompts, view.note, settings.rollout.prompts
        )
        stack.callback(stream.close)
        engine, sync, policy = parts.engine, parts.sync, parts.policy
        sampler = GroupSampler(
            engine, stream, prepared.scorer, settings.rollout, settings.objective, run.seed, view.now
        )
        source: GroupSource = sampler
        if settings.rollout.ahead:
            source = stack.enter_context(AheadSampler(sampler, settings.rollout.ahead, length.steps))
        evaluator = None
        if prepared.questions is not None and prepared.grader is not None:
            evaluator = HeldOutEvaluator(
                settings, prepared.questions, engine, encode, prepared.grader, folder, view, lambda: stop.requested
            )
        batcher = Batcher(settings, policy, parts.reference)
        if run.resume:
            # Torch makes an optimizer's state by a step on gradients of zero: as much memory as an update takes.
            sync.rest()
        recorder = Recorder(folder, settings, policy, source, encode, view, evaluator)
        with recorder.running():
            sync.publish(recorder.step)
            view.start(recorder.step, length.progress(recorder.step, source))
            recorder.catch_up()
            train(policy, source, batcher, sync, length, recorder)
        return recorder, parts.device


def check_batch_sizes(settings: TrainSettings, rows: int, prompts: int | None) -> None:
    """Check that a rollout splits evenly into optimizer steps and that the run is at least one rollout long.

    Args:
        settings: Of the run.
        rows: Of the dataset.
        prompts: Length of the run in prompts; None if it is given in steps.

    Raises:
        UserError: The sizes do not fit.
    """
    rollout, minibatch = settings.rollout.prompts, settings.optimizer.minibatch
    if minibatch > rollout:
        raise UserError(
            f"optimizer.minibatch = {minibatch}: more groups than a rollout has, rollout.prompts = {rollout}: "
            "lower the former or raise the latter"
        )
    if rollout % minibatch:
        raise UserError(
            f"rollout.prompts = {rollout}: not a multiple of optimizer.minibatch = {minibatch}, so the last optimizer "
            f"step of each rollout would have only {rollout % minibatch} groups: "
            f"take {rollout - rollout % minibatch} or {rollout + minibatch - rollout % minibatch} prompts"
        )
    if prompts is not None and prompts < rollout:
        run = settings.run
        length = f"run.prompts = {prompts}"
        if run.prompts is None:
            length = f"run.epochs = {run.epochs:g} over {rows} rows of {settings.data.path} is {prompts} prompts"
        raise UserError(f"{length}: less than one rollout, rollout.prompts = {rollout}: lower that or run longer")


def checked_encoder(processor: Any, settings: TrainSettings, template: str) -> PromptEncoder:
    """Return what encodes an example, and refuses what `require_rewarded` and `require_verifiable` refuse."""

    def encode(example: Example, draw: int) -> Prompt:
        require_verifiable(example)
        require_rewarded(example, template)
        return encode_prompt(example, processor, settings.data, draw)

    return encode


def with_template(settings: TrainSettings, example: Example) -> tuple[TrainSettings, str, str]:
    """Return `settings` with the template that is rewarded, its name, and the one that is rewarded if none is set.

    The latter is that of the prompt, which `data.format_prompt` adds or the questions bring along (`example` is one of
    them); `observe` if nothing asks for a format.
    """
    asked: str = settings.data.format_prompt
    if asked == "none":
        asked = asked_format(example.messages)
    asked = asked if asked != "none" else "observe"
    template: str = settings.rewards.template or asked
    rewards = settings.rewards.model_copy(update={"template": template})
    return settings.model_copy(update={"rewards": rewards}), template, asked


def require_rewarded(example: Example, template: str) -> None:
    """Check that a question does not itself ask for another format than the one that is rewarded.

    Raises:
        UserError: It does.
    """
    asked = asked_format(example.messages)
    if asked not in ("none", template):
        raise UserError(
            f"{example.origin}: the question asks for the format {asked!r}, and rewards.template = {template!r} rewards"
            f" other tags: give --rewards.template {asked} (and --data.format_prompt none)"
        )
