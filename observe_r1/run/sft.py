"""A run of supervised fine-tuning on one machine: its parts put together."""

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
from observe_r1.run import Ended
from observe_r1.run.folder import RunFolder
from observe_r1.run.next_steps import next_steps
from observe_r1.run.progress import Progress
from observe_r1.run.recorder import Recorder
from observe_r1.run.setup import device_line, facts, prepare_process, prompt_stream
from observe_r1.training.loop import RunLength
from observe_r1.training.sft import DemonstrationBatcher, fine_tune


def fine_tune_model(settings: SFTSettings, view: Progress) -> Ended:
    """Fine-tune as `settings` say, and write the run folder.

    Args:
        settings: Of the run.
        view: Shows it, and takes Ctrl-C; entered already.

    Raises:
        UserError: The user can correct it. What was learned before is saved.
        KeyboardInterrupt: Ctrl-C came before the first step, or twice.
    """
    settings = with_dtype(settings)
    run, rows_per_step = settings.run, settings.optimizer.minibatch
    if settings.data.order == "adaptive":
        raise UserError("data.order = 'adaptive': demonstrations have no pass rates: give ladder or random")
    prepare_process(run)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(run.output, settings, run.resume))
        view.now("reading the data")
        examples = load_data(settings.data, run.seed, require_answer=False)
        length = RunLength(run, len(examples))
        view.steps = length.steps_of(rows_per_step)
        view.now("loading the model")
        vlm = load_model(settings.model)
        policy = Policy(vlm, settings.optimizer, ObjectiveSettings(), dtype=compute_dtype(settings.model))
        view.about(**facts(settings, device_line(vlm.device, settings.model.dtype), len(examples)))
        compile_ahead(vlm.model, settings.optimizer.tokens_per_pack, policy.dtype, vlm.device, view.now)
        view.stop.after("this step, then saving")

        def encode(example: Example, draw: int) -> Prompt:
            return encode_prompt(example, vlm.processor, settings.data, draw)

        stream = prompt_stream(examples, encode, settings.data, run.seed, length.prompts, view.note, rows_per_step)
        stack.callback(stream.close)
        recorder = Recorder(folder, settings, policy, stream, encode, view)
        batcher = DemonstrationBatcher(settings.optimizer, vlm.processor.tokenizer)
        with recorder.running():
            view.start(recorder.step, length.progress(recorder.step, stream))
            fine_tune(policy, stream, batcher, length, recorder)
    view.close()
    print(recorder.line)
    if view.stop.requested:
        return Ended(130, "")  # the line above says how to go on
    return Ended(0, next_steps(settings, examples[0], vlm.device.type) if recorder.step else "")
