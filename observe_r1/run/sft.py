"""The parts of supervised fine-tuning, put together on one machine."""

import math
from contextlib import ExitStack

from observe_r1.config import ObjectiveSettings, SFTSettings
from observe_r1.data import load_data
from observe_r1.errors import UserError
from observe_r1.model.device import compute_dtype, with_dtype
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.model.shared_prefix import compile_ahead
from observe_r1.policy.policy import Policy
from observe_r1.records import Example, Prompt
from observe_r1.run import parts
from observe_r1.run.folder import RunFolder
from observe_r1.run.parts import afterwards
from observe_r1.run.progress import Progress
from observe_r1.run.recorder import Record
from observe_r1.training.sft import fine_tune


def fine_tune_model(settings: SFTSettings, view: Progress) -> parts.Ended:
    """Fine-tune as `settings` say, writing the run folder."""
    settings = with_dtype(settings)
    run = settings.run
    if settings.data.order == "adaptive":
        raise UserError("data.order = 'adaptive': demonstrations have no pass rates; sft takes ladder or random")
    parts.prepare_process(run)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(run.output, settings, run.resume))
        view.now("reading the data")
        examples = load_data(settings.data, run.seed, require_answer=False)
        prompts, steps = run_length(settings, len(examples))
        view.steps = steps
        view.now("loading the model")
        vlm = load_model(settings.model)
        policy = Policy(vlm, settings.optimizer, ObjectiveSettings(), dtype=compute_dtype(settings.model))
        view.about(**parts.facts(settings, vlm.device, len(examples)))
        compile_ahead(vlm.model, settings.optimizer.tokens_per_pack, compute_dtype(settings.model), view.now)
        view.stop.after("this step, then saving")

        def encode(example: Example, draw: int) -> Prompt:
            return encode_prompt(example, vlm.processor, settings.data, draw)

        a_step = settings.optimizer.minibatch
        stream = parts.prompt_stream(examples, encode, settings.data, run.seed, prompts, view.note, a_step)
        stack.callback(stream.close)
        record = stack.enter_context(Record(folder, run, settings.data, policy, stream, encode, view))
        with parts.saving(vlm, folder, settings.data, stream, record):
            tokenizer = vlm.processor.tokenizer
            view.going_on(record.step, record.step / steps)
            fine_tune(
                policy,
                stream,
                tokenizer,
                settings,
                steps,
                record.step_done,
                lambda: view.stop.requested,
                record.step,
                view.now,
            )
    view.close()
    print(record.line)
    hints = afterwards(settings, examples[0], vlm.device.type) if record.step else ""
    return parts.Ended(130 if view.stop.requested else 0, hints)


def run_length(settings: SFTSettings, examples: int) -> tuple[int | None, int]:
    """Return how many rows the run draws (None: as many as its steps need) and how many steps it takes."""
    run, size = settings.run, settings.optimizer.minibatch
    prompts = run.prompts
    if prompts is None and run.steps is None:
        prompts = max(1, round(run.epochs * examples))
    by_prompts = math.inf if prompts is None else math.ceil(prompts / size)
    return prompts, int(min(run.steps or math.inf, by_prompts))
