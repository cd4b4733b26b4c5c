"""What the last lines of a run tell its user to do next: look at the run, evaluate the model, load it in Python."""

from pathlib import Path

from observe_r1 import torch_compat
from observe_r1.config import RolloutSettings, SFTSettings, TrainSettings
from observe_r1.data.format_prompts import apply_format_prompt
from observe_r1.records import Example, ImageSource

_LONGEST_QUESTION = 400
"""Characters of a question that is shown; in place of a longer one the reader fills in their own."""


def next_steps(settings: TrainSettings | SFTSettings, example: Example, device: str) -> str:
    """Return the lines; `example` is a question that the Python code asks the model, which ran on `device`."""
    folder = Path(settings.run.output)
    figures = f"{folder / 'metrics.jsonl'} has the figures of every step"
    if settings.run.tensorboard:
        figures += f" (`tensorboard --logdir {folder}` draws them)"
    if isinstance(settings, TrainSettings):
        figures += f", {folder / 'rollouts'} every response; `observe-r1 report {folder}` makes one page of them"
    return (
        f"load it, in Python:\n\n{snippet(settings, example, device)}\n"
        f"evaluate it: `observe-r1 evaluate {folder / 'model'} HELD_OUT.jsonl --against {settings.model.path}` asks "
        "both models your questions, and shows how much it has improved\n"
        f"look at it: {figures}\n"
    )


def snippet(settings: TrainSettings | SFTSettings, example: Example, device: str) -> str:
    """Return Python code that loads the model of a run and asks it as training did, format prompt included."""
    rollout = settings.rollout if isinstance(settings, TrainSettings) else RolloutSettings()
    dtype = "" if settings.model.dtype == "float32" else f", dtype={settings.model.dtype!r}"
    place = "" if device == "cpu" else f".to({device!r})"
    repair = "import observe_r1.model  # lets torchvision load with another build of torch\n"
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
        images = [{"type": "image"} for _ in example.images]
        messages = ({"role": "user", "content": [*images, {"type": "text", "text": "Your question?"}]},)
    return list(apply_format_prompt(messages, data.format_prompt, data.format_prompt_place))


def _path(source: ImageSource) -> str:
    """Return the path of an image; of one that is not a file of its own, a name for the reader to replace."""
    if isinstance(source, bytes) or source.lower().startswith(("data:", "http://", "https://")):
        return "image.png"
    return str(Path(source).absolute())
