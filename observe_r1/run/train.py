"""The parts of a training run, put together on one machine."""

from contextlib import ExitStack
from typing import Any

from observe_r1.config import TrainSettings
from observe_r1.data import load_data
from observe_r1.data.format_prompts import asked_format
from observe_r1.errors import UserError
from observe_r1.model.device import compute_dtype, with_dtype
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.model.shared_prefix import compile_ahead
from observe_r1.policy.policy import Policy
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.records import Example, Prompt
from observe_r1.registry import load
from observe_r1.rewards import Scorer
from observe_r1.rewards.accuracy import require_verifiable
from observe_r1.run import parts
from observe_r1.run.folder import RunFolder
from observe_r1.run.held_out import HeldOut, evaluation_rewards, load_held_out
from observe_r1.run.parts import afterwards
from observe_r1.run.progress import Progress
from observe_r1.run.recorder import Record
from observe_r1.training.loop import Batcher, RunLength, train
from observe_r1.training.prompts import Encode
from observe_r1.training.sampler import GroupSampler
from observe_r1.training.weight_sync import weight_sync


def check_batch_sizes(settings: TrainSettings, rows: int, prompts: int | None) -> None:
    """Check that a rollout splits evenly into optimizer steps and that the run is at least one rollout long.

    Args:
        settings: Of the run.
        rows: Of the dataset.
        prompts: Length of the run in prompts; None where it is given in steps.

    Errors: `UserError` for sizes that do not fit.
    """
    rollout, minibatch = settings.rollout.prompts, settings.optimizer.minibatch
    if minibatch > rollout:
        raise UserError(
            f"optimizer.minibatch = {minibatch}: more than the rollout has, rollout.prompts = {rollout}: "
            "lower the one or raise the other"
        )
    if rollout % minibatch:
        raise UserError(
            f"rollout.prompts = {rollout}: not a multiple of optimizer.minibatch = {minibatch}, so each rollout's last "
            f"optimizer step would have only {rollout % minibatch} groups of them: "
            f"take {rollout - rollout % minibatch} or {rollout + minibatch - rollout % minibatch}"
        )
    if prompts is not None and prompts < rollout:
        run = settings.run
        length = f"run.prompts = {prompts}"
        if run.prompts is None:
            length = f"run.epochs = {run.epochs:g} over {rows} rows of {settings.data.path} is {prompts} prompts"
        raise UserError(f"{length}: less than one rollout, rollout.prompts = {rollout}: lower that or run longer")


def train_model(settings: TrainSettings, view: Progress) -> parts.Ended:
    """Train as `settings` say, writing the run folder."""
    settings = with_dtype(settings)
    run, stop, view.steps = settings.run, view.stop, settings.run.steps
    parts.prepare_process(run)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(run.output, settings, run.resume))
        view.now("reading the data")
        # First, because a reward of the user's own is checked here, before anything is loaded for it.
        scorer = stack.enter_context(Scorer(settings.rewards))
        examples = load_data(settings.data, run.seed)
        require_rewarded(examples[0], settings.rewards.template)
        questions = load_held_out(settings)
        length = RunLength(run, len(examples))
        check_batch_sizes(settings, len(examples), length.prompts)
        view.now("loading the model")
        policy, reference = load_policy(settings)
        vlm, rollout = policy.vlm, settings.rollout
        view.about(**parts.facts(settings, vlm.device, len(examples)))
        compile_ahead(vlm.model, settings.optimizer.tokens_per_pack, compute_dtype(settings.model), view.now)
        view.now("starting the sampler")
        engine = load("engine", rollout.engine).from_settings(vlm, rollout, settings.data, policy.dtype)
        stop.after("this step, then saving")

        encode = checked_encode(vlm.processor, settings)
        stream = parts.prompt_stream(
            examples, encode, settings.data, run.seed, length.prompts, view.note, rollout.prompts
        )
        stack.callback(stream.close)
        sampler = GroupSampler(engine, stream, scorer, rollout, settings.objective, run.seed, view.now)
        held_out = None
        if questions is not None:
            grader = stack.enter_context(Scorer(evaluation_rewards(settings.rewards)))
            held_out = HeldOut(settings, questions, engine, encode, grader, folder, view, lambda: stop.requested)
        record = stack.enter_context(Record(folder, run, settings.data, policy, sampler, encode, view, held_out))
        with parts.saving(vlm, folder, settings.data, stream, record):

            def on_step(step: int, metrics: dict[str, float]) -> None:
                record.step_done(step, metrics, last=length.reached(step, sampler))

            def stopped() -> bool:
                return stop.requested or record.out_of_patience

            batcher, sync = Batcher(settings, policy, reference), weight_sync(engine, vlm)
            sync.publish(record.step)
            view.going_on(record.step, length.progress(record.step, sampler))
            record.begin()
            train(
                policy, sampler, batcher, sync, length, folder.write_rollouts, on_step, stopped, record.step, view.now
            )
    view.close()
    print(record.line)
    hints = afterwards(settings, examples[0], vlm.device.type) if record.step else ""
    return parts.Ended(130 if stop.requested else 0, hints)


def load_policy(settings: TrainSettings) -> tuple[Policy, LogprobModel | None]:
    """Load the policy, and where a KL term needs a reference the model it starts from: its own, under LoRA adapters."""
    temperature, dtype = settings.rollout.temperature, compute_dtype(settings.model)
    vlm = load_model(settings.model)
    policy = Policy(vlm, settings.optimizer, settings.objective, temperature=temperature, dtype=dtype)
    if settings.objective.kl_coef == 0:
        return policy, None
    base = vlm if settings.model.lora_rank else load_model(settings.model, frozen=True)
    reference = LogprobModel(base, settings.optimizer, temperature=temperature, adapters=False)
    return policy, reference


def checked_encode(processor: Any, settings: TrainSettings) -> Encode:
    """Return the encoding of an example; refused are those that `require_rewarded` and `require_verifiable` refuse."""

    def encode(example: Example, draw: int) -> Prompt:
        require_verifiable(example)
        require_rewarded(example, settings.rewards.template)
        return encode_prompt(example, processor, settings.data, draw)

    return encode


def require_rewarded(example: Example, template: str) -> None:
    """Raise `UserError` for a question that itself asks for another format than the one that is rewarded."""
    asked = asked_format(example.messages)
    if asked not in ("none", template):
        raise UserError(
            f"{example.origin}: the question asks for the format {asked!r}, and rewards.template = {template!r} rewards"
            f" other tags: give --rewards.template {asked} (and --data.format_prompt none)"
        )
