"""A training run on one machine: its parts put together, in the order in which they can fail."""

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
from observe_r1.run import Ended
from observe_r1.run.folder import RunFolder
from observe_r1.run.held_out import HeldOutEvaluator, evaluation_rewards, load_held_out
from observe_r1.run.next_steps import next_steps
from observe_r1.run.progress import Progress
from observe_r1.run.recorder import Recorder
from observe_r1.run.setup import facts, prepare_process, prompt_stream
from observe_r1.training.loop import Batcher, RunLength, train
from observe_r1.training.prompts import PromptEncoder
from observe_r1.training.sampler import GroupSampler
from observe_r1.training.weight_sync import training_memory, weight_sync


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
    run, stop, view.steps = settings.run, view.stop, settings.run.steps
    prepare_process(run)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(run.output, settings, run.resume))
        view.now("reading the data")
        # First, because this checks the user's own rewards before anything is loaded for them.
        scorer = stack.enter_context(Scorer(settings.rewards))
        examples = load_data(settings.data, run.seed)
        settings, scorer.template = with_template(settings, examples[0])
        require_rewarded(examples[0], scorer.template)
        questions = load_held_out(settings)
        length = RunLength(run, len(examples))
        check_batch_sizes(settings, len(examples), length.prompts)
        view.now("loading the model")
        policy, reference = load_policy(settings)
        vlm, rollout = policy.vlm, settings.rollout
        view.about(**facts(settings, vlm.device, len(examples)))
        compile_ahead(vlm.model, settings.optimizer.tokens_per_pack, compute_dtype(settings.model), view.now)
        view.now("starting the sampler")
        memory = training_memory(policy, reference)
        start = load("engine", rollout.engine).from_settings
        engine = start(vlm, rollout, settings.data, policy.dtype, memory, view.note)
        stop.after("this step, then saving")

        encode = checked_encoder(vlm.processor, settings, scorer.template)
        stream = prompt_stream(examples, encode, settings.data, run.seed, length.prompts, view.note, rollout.prompts)
        stack.callback(stream.close)
        sampler = GroupSampler(engine, stream, scorer, rollout, settings.objective, run.seed, view.now)
        evaluator = None
        if questions is not None:
            grader = stack.enter_context(Scorer(evaluation_rewards(settings.rewards)))
            evaluator = HeldOutEvaluator(
                settings, questions, engine, encode, grader, folder, view, lambda: stop.requested
            )
        batcher, sync = Batcher(settings, policy, reference), weight_sync(engine, vlm)
        if run.resume:
            # Torch makes an optimizer's state by a step on gradients of zero: as much memory as an update takes.
            sync.rest()
        recorder = Recorder(folder, settings, policy, sampler, encode, view, evaluator)
        with recorder.running():
            sync.publish(recorder.step)
            view.start(recorder.step, length.progress(recorder.step, sampler))
            recorder.catch_up()
            train(policy, sampler, batcher, sync, length, recorder)
    view.close()
    print(recorder.line)
    hints = next_steps(settings, examples[0], vlm.device.type) if recorder.step else ""
    return Ended(130 if stop.requested else 0, hints)


def check_batch_sizes(settings: TrainSettings, rows: int, prompts: int | None) -> None:
    """Check that a rollout splits evenly into optimizer steps and that the run is at least one rollout long.

    Args:
        settings: Of the run.
        rows: Of the dataset.
        prompts: Length of the run in prompts; None where it is given in steps.

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


def load_policy(settings: TrainSettings) -> tuple[Policy, LogprobModel | None]:
    """Load the policy and, where a KL term needs one, the reference: the starting model, or under LoRA its base."""
    temperature, dtype = settings.rollout.temperature, compute_dtype(settings.model)
    vlm = load_model(settings.model)
    policy = Policy(vlm, settings.optimizer, settings.objective, temperature=temperature, dtype=dtype)
    if settings.objective.kl_coef == 0:
        return policy, None
    base = vlm if settings.model.lora_rank else load_model(settings.model, frozen=True)
    reference = LogprobModel(base, settings.optimizer, temperature=temperature, adapters=False)
    return policy, reference


def checked_encoder(processor: Any, settings: TrainSettings, template: str) -> PromptEncoder:
    """Return what encodes an example, and refuses what `require_rewarded` and `require_verifiable` refuse."""

    def encode(example: Example, draw: int) -> Prompt:
        require_verifiable(example)
        require_rewarded(example, template)
        return encode_prompt(example, processor, settings.data, draw)

    return encode


def with_template(settings: TrainSettings, example: Example) -> tuple[TrainSettings, str]:
    """Return `settings` with the template that is rewarded, and its name.

    It is the one that is set; else the one of the prompt, which `data.format_prompt` adds or the questions bring along
    (`example` is one of them); `observe` if nothing asks for a format.
    """
    asked: str = settings.data.format_prompt
    if asked == "none":
        asked = asked_format(example.messages)
    template: str = settings.rewards.template or (asked if asked != "none" else "observe")
    rewards = settings.rewards.model_copy(update={"template": template})
    return settings.model_copy(update={"rewards": rewards}), template


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
