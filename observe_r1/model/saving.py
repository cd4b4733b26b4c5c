"""The trained model as an ordinary Hugging Face checkpoint."""

import json
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from observe_r1 import __version__
from observe_r1.config import DataSettings
from observe_r1.data import FORMAT_PROMPTS
from observe_r1.errors import UserError
from observe_r1.files import replacing
from observe_r1.model.loading import VisionLanguageModel

RECORD = "observe_r1.json"
"""Beside the weights: which format prompt they were trained with, so that the model can be asked the same way."""


def save_model(vlm: VisionLanguageModel, folder: Path, data: DataSettings) -> None:
    """Write weights (safetensors), configuration, processor and `RECORD` to `folder`, replacing what is there.

    `folder` is at every moment absent or complete. It loads with `AutoModelForImageTextToText.from_pretrained(folder)`.

    Errors: `UserError` where it cannot be written, a full disk for one; what was there before is as it was.
    """
    transformers_logging.disable_progress_bar()
    record = {
        "observe_r1": __version__,
        "format_prompt": data.format_prompt,
        "format_prompt_place": data.format_prompt_place,
        "format_prompt_text": FORMAT_PROMPTS.get(data.format_prompt, ""),
    }
    try:
        with replacing(folder) as new:
            vlm.model.save_pretrained(new)
            vlm.processor.save_pretrained(new)
            (new / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the model to {str(folder)!r}: {str(error).splitlines()[0]}") from error
