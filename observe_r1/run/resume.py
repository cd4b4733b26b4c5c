"""The state of a run, to a checkpoint and back: weights, optimizer, position, leftovers, random numbers."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from observe_r1.records import Completion, Example, Group
from observe_r1.run.checkpoint import Checkpoints
from observe_r1.training.parts import SavedPolicy
from observe_r1.training.prompts import PromptEncoder, PromptSource

_RANDOM, _RANDOM_CUDA = "random.cpu", "random.cuda"
_GROUP_TENSORS = ("rewards", "correct", "bonus", "advantages")
"""Tensors of a group with one value per response; its `weight` is a number, and saved as JSON."""


class RunState:
    """All that a resumed run needs so that its weights, rollouts and metrics are those of a run that never stopped.

    Args:
        checkpoints: Of the run.
        policy: Whose weights and optimizer are part of the state.
        source: Where the prompts come from; its position is part of the state.
        encode: Makes the prompts of leftover groups again: their images are not saved.
    """

    def __init__(
        self, checkpoints: Checkpoints, policy: SavedPolicy, source: PromptSource, encode: PromptEncoder
    ) -> None:
        self.checkpoints = checkpoints
        self.policy = policy
        self.source = source
        self.encode = encode

    def save(self, step: int, record: dict[str, Any], best: int | None) -> None:
        """Begin to write the checkpoint of `step`; see `Checkpoints.save`.

        Args:
            step: Steps done.
            record: What the caller needs, as JSON values.
            best: The step of the best checkpoint, which is kept; None if there is none.

        Raises:
            UserError: It, or the one before it, cannot be written.
        """
        position = self.source.state_dict()
        tensors: dict[str, Tensor] = {}
        if "leftovers" in position:
            position["leftovers"], tensors = dump_groups(position["leftovers"])
        tensors[_RANDOM] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors[_RANDOM_CUDA] = torch.cuda.get_rng_state()
        self.checkpoints.save(step, self.policy, {"position": position, "record": record}, tensors, best)

    def restore(self, note: Callable[[str], None]) -> tuple[int, dict[str, Any]] | None:
        """Restore the newest whole checkpoint.

        Args:
            note: Told of damaged checkpoints, and if there is none.

        Returns:
            Its step and its `record`; None if there is none.

        Raises:
            UserError: It cannot be read, or belongs to another model or other data.
        """
        loaded = self.checkpoints.load_newest(self.policy, note)
        if loaded is None:
            note(f"no checkpoint in {self.checkpoints.folder}: starting a new run")
            return None
        state, tensors = loaded
        position = state["position"]
        if "leftovers" in position:
            position["leftovers"] = load_groups(position["leftovers"], tensors, self.encode)
        self.source.load_state_dict(position)
        torch.set_rng_state(tensors[_RANDOM])
        if _RANDOM_CUDA in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors[_RANDOM_CUDA])
        return int(state["step"]), state["record"]


def dump_groups(groups: Sequence[Group]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return `groups` as JSON values and named tensors, without their prompts, which `load_groups` makes again."""
    rows: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for index, group in enumerate(groups):
        tensors |= {f"{index}.{name}": getattr(group, name) for name in _GROUP_TENSORS}
        for name, values in group.parts.items():
            tensors[f"{index}.parts.{name}"] = values
        for number, completion in enumerate(group.completions):
            tensors[f"{index}.{number}.ids"] = completion.ids
            tensors[f"{index}.{number}.logprobs"] = completion.logprobs
            if completion.versions is not None:
                tensors[f"{index}.{number}.versions"] = completion.versions
        rows.append(
            {
                "example": _dump_example(group.example),
                "stream": group.prompt.stream,
                "weight": group.weight,
                "parts": list(group.parts),
                "completions": [{"text": c.text, "version": c.version, "finish": c.finish} for c in group.completions],
            }
        )
    return rows, tensors


def load_groups(rows: Sequence[dict[str, Any]], tensors: dict[str, Tensor], encode: PromptEncoder) -> list[Group]:
    """Return the groups that `dump_groups` gave as `rows` and `tensors`; `encode` makes their prompts."""
    groups = []
    for index, row in enumerate(rows):
        example = _load_example(row["example"])
        completions = tuple(
            Completion(
                tensors[f"{index}.{number}.ids"],
                tensors[f"{index}.{number}.logprobs"],
                **completion,
                versions=tensors.get(f"{index}.{number}.versions"),
            )
            for number, completion in enumerate(row["completions"])
        )
        groups.append(
            Group(
                example=example,
                prompt=encode(example, row["stream"]),
                completions=completions,
                **{name: tensors[f"{index}.{name}"] for name in _GROUP_TENSORS},
                weight=row["weight"],
                parts={name: tensors[f"{index}.parts.{name}"] for name in row["parts"]},
            )
        )
    return groups


def _dump_example(example: Example) -> dict[str, Any]:
    images = [{"base64": base64.b64encode(i).decode()} if isinstance(i, bytes) else i for i in example.images]
    return asdict(example) | {"images": images}


def _load_example(row: dict[str, Any]) -> Example:
    images = tuple(i if isinstance(i, str) else base64.b64decode(i["base64"]) for i in row["images"])
    return Example(**(row | {"images": images, "messages": tuple(row["messages"])}))
