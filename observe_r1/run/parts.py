"""What one does with a trained model: look at the run, evaluate the model, load it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from observe_r1 import torch_compat
from observe_r1.config import DataSettings, RolloutSettings, RunSettings, SFTSettings, TrainSettings
from observe_r1.data.format_prompts import apply_format_prompt
from observe_r1.errors import UserError, full_disk
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.model.saving import save_model
from observe_r1.records import Example, ImageSource
from observe_r1.registry import load
from observe_r1.run.folder import RunFolder
from observe_r1.run.recorder import Record
from observe_r1.training.prompts import AHEAD, Encode, PromptStream


class Ended(NamedTuple):
    """How a run ended."""

    code: int
    """The command's exit code: 0, or 130 where Ctrl-C ended it early."""
    hints: str
    """How to go on with its model; nothing where there is none."""


def prepare_process(settings: RunSettings) -> None:
    """Set this process's threads and seeds."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)


def device_line(device: torch.device, dtype: str) -> str:
    """Return where a model computes and in what, in words: `1 of 8 GPUs` where more are there than are used."""
    if device.type != "cuda":
        return f"{device}, {dtype}"
    count = torch.cuda.device_count()
    share = f", 1 of {count} GPUs" if count > 1 else ""
    return f"{torch.cuda.get_device_name(device)} ({device}{share}), {dtype}"


def facts(settings: TrainSettings | SFTSettings, device: torch.device, rows: int) -> dict[str, str]:
    """Return what the view shows of a run: its model, data, device and folder."""
    return {
        "model": settings.model.path,
        "data": f"{settings.data.path} ({rows:,} rows)",
        "device": device_line(device, settings.model.dtype),
        "folder": settings.run.output,
    }


def prompt_stream(
    examples: Sequence[Example],
    encode: Encode,
    data: DataSettings,
    seed: int,
    limit: int | None,
    note: Callable[[str], None],
    a_step: int = 1,
) -> PromptStream:
    """Return the prompts of `examples` in the order that `data.order` names; a step takes `a_step` of them."""
    order = load("order", data.order)(data, len(examples), seed)
    return PromptStream(examples, order, encode, note, limit, ahead=max(AHEAD, a_step))


@contextmanager
def saving(
    vlm: VisionLanguageModel,
    folder: RunFolder,
    data: DataSettings,
    stream: PromptStream,
    record: Record,
) -> Iterator[None]:
    """Run the block, then save a checkpoint and the model, and leave the run's last line in `record.line`.

    An error that the user can correct ends the run, a full disk too, but the model is saved as it was learned so far.
    """
    view, stop = record.view, record.view.stop
    try:
        yield
        record.save_checkpoint()
    except (UserError, OSError) as caught:
        error = caught if isinstance(caught, UserError) else full_disk(caught)
        if error is None or record.step == 0:
            raise
        view.now("saving the model")
        model = f"its model is in {folder.model}"
        try:
            save_model(vlm, folder.model, data)
        except UserError:  # a full disk stops both; what stopped the run is what the user must hear
            model = "its model cannot be saved either"
        checkpoint = (
            f"{view.again} continues after step {record.saved}" if record.saved else "there is no checkpoint yet"
        )
        raise UserError(f"{error} (stopped after step {record.step}, {model}; {checkpoint})") from caught
    how = "interrupted" if stop.requested else "stopped early" if record.out_of_patience else "done"
    if record.step:
        view.now("saving the model")
        save_model(vlm, folder.model, data)
        record.line = f"{how} after step {record.step}: model in {folder.model}, metrics in {folder.metrics}"
        if stop.requested:
            record.line += f"; {view.again} continues"
    else:
        record.line = f"{how} before the first step: no model to save"
    if record.best.step is not None:
        record.line += f"; {record.best_line}"
    if stream.dropped:
        record.line += f"; {stream.dropped} prompts over data.max_prompt_tokens were dropped"


_LONGEST_QUESTION = 400
"""Characters of a question that is shown; a longer one is left for the reader to fill in."""


def afterwards(settings: TrainSettings | SFTSettings, example: Example, device: str) -> str:
    """Return lines that say how to go on with the model of a run; `example` is a question that the snippet asks it."""
    folder = Path(settings.run.output)
    figures = f"{folder / 'metrics.jsonl'} has the figures of every step"
    if settings.run.tensorboard:
        figures += f" (`tensorboard --logdir {folder}` draws them)"
    if isinstance(settings, TrainSettings):
        figures += f", {folder / 'rollouts'} every response with its rewards"
    return (
        f"look at it: {figures}\n"
        f"evaluate it: `observe-r1 ladder build HELD_OUT.jsonl --model {folder / 'model'} --output measured` puts "
        "questions to it, and shows how many it gets right how often\n"
        f"load it, in Python:\n\n{snippet(settings, example, device)}"
    )


def snippet(settings: TrainSettings | SFTSettings, example: Example, device: str) -> str:
    """Return Python that loads the model of a run and asks it as it was asked in training, format prompt included."""
    rollout = settings.rollout if isinstance(settings, TrainSettings) else RolloutSettings()
    dtype = "" if settings.model.dtype == "float32" else f", dtype={settings.model.dtype!r}"
    place = "" if device == "cpu" else f".to({device!r})"
    repair = "import observe_r1.model  # lets torchvision load beside another build of torch\n"
    opened = ", ".join(f'Image.open({_path(source)!r}).convert("RGB")' for source in example.images)
    chat = "".join(f"    {message!r},\n" for message in _chat(settings, example))
    return (
        f"{repair if torch_compat.has_repaired() else ''}"
        "from PIL import Image\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        f"folder = {str(Path(settings.run.output, 'model').absolute())!r}\n"
        f"model = AutoModelForImageTextToText.from_pretrained(folder{dtype}){place}\n"
        "processor = AutoProcessor.from_pretrained(folder)\n"
        f"chat = [\n{chat}]\n"
        f"images = {f'[{opened}]' if opened else None}\n"
        "text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)\n"
        'asked = processor(text=[text], images=images, return_tensors="pt").to(model.device)\n'
        f"answered = model.generate(**asked, max_new_tokens={rollout.max_new_tokens}, do_sample=False)\n"
        'print(processor.decode(answered[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))\n'
    )


def _chat(settings: TrainSettings | SFTSettings, example: Example) -> list[dict[str, object]]:
    """Return the question as the model's chat template takes it, with the format prompt."""
    data, messages = settings.data, example.messages
    if sum(len(part.get("text", "")) for each in messages for part in each["content"]) > _LONGEST_QUESTION:
        pictures = [{"type": "image"} for _ in example.images]
        messages = ({"role": "user", "content": [*pictures, {"type": "text", "text": "Your question?"}]},)
    return list(apply_format_prompt(messages, data.format_prompt, data.format_prompt_place))


def _path(source: ImageSource) -> str:
    """Return where a picture is, or a name in its place for one that is not in a file of its own."""
    if isinstance(source, bytes) or source.lower().startswith(("data:", "http://", "https://")):
        return "picture.png"
    return str(Path(source).absolute())
