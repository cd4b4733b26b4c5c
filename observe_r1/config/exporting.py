"""The settings of `observe-r1 export`."""

from typing import Literal

from observe_r1.config.section import NonEmptyText, PathText, Section


class ExportOptions(Section):
    """What is handed over, and where to."""

    run: PathText
    """Folder of a training run."""
    to: PathText
    """Folder that is made: a Hugging Face checkpoint with its model card."""
    best: bool = False
    """Take the best model by the held-out questions, not the last one."""
    weights: Literal["merged", "adapter"] = "merged"
    """Of a model trained with LoRA: `merged` is an ordinary model, `adapter` the LoRA weights alone, for peft."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the weights in the files; training keeps float32, twice as large."""
    evaluation: PathText | None = None
    """Folder of `observe-r1 evaluate` whose figures the card shows."""
    push: NonEmptyText | None = None
    """Name on the Hugging Face Hub, USER/NAME, that the folder is then uploaded to."""
    private: bool = True
    """Make that name private if it does not exist yet."""


class ExportSettings(Section):
    """All of `observe-r1 export`."""

    export: ExportOptions
