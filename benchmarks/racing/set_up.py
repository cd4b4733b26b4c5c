"""Builds both sides from one description of the model and its prompts."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from observe_r1.config import TrainSettings
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.records import Example
from observe_r1.rewards import Scorer
from racing.counting import Work, costs
from racing.our_side import OurSide
from racing.work import Script, write_questions


@contextmanager
def questions(
    model: Sizes | Path,
    grid: tuple[int, int],
    prompts: int,
    *,
    freeze: bool = False,
    offload: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
    checkpointing: bool = False,
    longest: int = 600,
    group_size: int = 8,
) -> Iterator[tuple[TrainSettings, list[Example]]]:
    """Write questions, and the model unless it exists; give the settings and examples that build either side.

    Args:
        model: the sizes of a model to make, or the folder of one.
        grid: height and width of each question's image in patches.
        prompts: questions, all of them in every step.
        freeze: freeze the image tower.
        offload: keep float32 weights and moments in the CPU's memory (ours alone).
        device: `cpu` or `cuda`.
        dtype: compute type.
        checkpointing: recompute activations in the backward pass.
        longest: tokens of a response at most.
        group_size: responses a prompt.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make_tiny_model(folder / "model", sizes=model) if isinstance(model, Sizes) else model
        examples = write_questions(folder / "questions", prompts, grid)
        values = {
            "model": {
                "path": str(path),
                "device": device,
                "dtype": dtype,
                "freeze": ["model.visual"] if freeze else [],
                "gradient_checkpointing": checkpointing,
            },
            "data": {
                "path": str(folder / "questions" / "questions.json"),
                "format_prompt": "none",
                "max_prompt_tokens": 2048,
            },
            "rollout": {"prompts": prompts, "group_size": group_size, "max_new_tokens": longest},
            "objective": {"bonus": 0, "dynamic_weight": False, "aggregation": "sequence"},
            "optimizer": {"minibatch": prompts, "schedule": "constant", "warmup": 0, "offload": offload},
            "run": {"output": str(folder / "run")},
        }
        yield TrainSettings.model_validate(values), examples


@contextmanager
def our_side(settings: TrainSettings, examples: list[Example], *, placeholders: bool = False) -> Iterator[OurSide]:
    """Build our side (`OurSide`) and close it at the end."""
    with Scorer(settings.rewards) as scorer:
        side = OurSide(settings, examples, scorer, placeholders=placeholders)
        yield side
        side.stream.close()


def work_of(ours: OurSide, given: Script, *, head_on_prompts: bool = True) -> Work:
    """Return the work of `given` on our side's model and prompts; for `head_on_prompts` see `Work`."""
    prompt = ours.prompts[0]
    assert prompt.image_grid is not None
    return Work(
        costs=costs(ours.vlm.model, int(prompt.image_grid.prod())),
        prompt=len(prompt.ids),
        script=given,
        tower_trained=not ours.settings.model.freeze,
        head_on_prompts=head_on_prompts,
    )
