"""`observe-r1 sft`: the warm start on demonstrations."""

import contextlib
import math

from observe_r1.cli.options import parse_settings
from observe_r1.config import SFTSettings
from observe_r1.records import Example, Prompt


def run(argv: list[str]) -> int:
    """Parse the settings and fine-tune. Returns 0, or 130 after Ctrl-C."""
    settings = parse_settings(SFTSettings, argv, verb="sft")
    return fine_tune_model(settings)


def fine_tune_model(settings: SFTSettings, label: str = "sft") -> int:
    """Fine-tune as `settings` say, writing the run folder. Returns 0, or 130 where Ctrl-C ended it early."""
    from observe_r1.cli import parts
    from observe_r1.config import ObjectiveSettings
    from observe_r1.data import load_data
    from observe_r1.model.encoding import encode_prompt
    from observe_r1.model.loading import load_model
    from observe_r1.policy.policy import Policy
    from observe_r1.training.checkpoints import Checkpoints
    from observe_r1.training.interrupt import StopRequest
    from observe_r1.training.progress import Progress
    from observe_r1.training.resume import RunState
    from observe_r1.training.run_folder import RunFolder
    from observe_r1.training.sft import fine_tune
    from observe_r1.training.sinks import open_sinks

    parts.prepare_process(settings.run)
    examples = load_data(settings.data, settings.run.seed, require_answer=False)
    vlm = load_model(settings.model)
    dtype = parts.compute_dtype(settings.model)
    policy = Policy(vlm, settings.optimizer, ObjectiveSettings(), dtype=dtype)
    prompts = settings.run.prompts
    if prompts is None and settings.run.steps is None:
        prompts = max(1, round(settings.run.epochs * len(examples)))
    by_prompts = math.inf if prompts is None else math.ceil(prompts / settings.optimizer.minibatch)
    steps = int(min(settings.run.steps or math.inf, by_prompts))

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(RunFolder(settings.run.output, settings, settings.run.resume))
        view = stack.enter_context(Progress(label, steps))
        stop = stack.enter_context(StopRequest())

        def encode(example: Example, draw: int) -> Prompt:
            return encode_prompt(example, vlm.processor, settings.data, draw)

        stream = parts.prompt_stream(examples, encode, settings.data, settings.run.seed, prompts, view.note)
        stack.callback(stream.close)
        state = RunState(Checkpoints(folder.checkpoints, settings.run.keep), policy, stream, encode)
        start = state.restore(view.note) if settings.run.resume else 0
        folder.cut_back(start)
        sinks = open_sinks(folder.path, settings.run)
        for sink in sinks:
            stack.callback(sink.close)

        with parts.saving(vlm, folder, settings.data, stream, stop) as outcome:
            outcome.steps = start

            def on_step(step: int, metrics: dict[str, float]) -> None:
                outcome.steps = step
                for sink in sinks:
                    sink.write(step, metrics)
                view.update(step, metrics)
                if step % settings.run.save_every == 0 or step == steps or stop.requested:
                    state.save(step)

            fine_tune(policy, stream, vlm.processor.tokenizer, settings, steps, on_step, stop, start)
    print(outcome.line)
    return 130 if stop.requested else 0
