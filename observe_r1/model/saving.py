"""The trained model as an ordinary Hugging Face checkpoint."""

import shutil
from pathlib import Path

from transformers.utils import logging as transformers_logging

from observe_r1.model.loading import VisionLanguageModel


def save_model(vlm: VisionLanguageModel, folder: Path) -> None:
    """Write weights (safetensors), configuration and processor to `folder`, replacing what is there.

    Written beside and renamed, so that `folder` is at every moment absent or complete. It loads with
    `AutoModelForImageTextToText.from_pretrained(folder)`.
    """
    transformers_logging.disable_progress_bar()
    new, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    vlm.model.save_pretrained(new)
    vlm.processor.save_pretrained(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
