"""A run's state in a checkpoint and back: weights and optimizer, position in the data, leftovers, random numbers."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from observe_r1.policy.policy import Policy
from observe_r1.records import Completion, Example, Group, Prompt
from observe_r1.run.checkpoint import Checkpoints
from observe_r1.training.prompts import Encode
from observe_r1.training.sampler import GroupSampler

_OF_A_GROUP = ("rewards", "correct", "bonus", "advantages")
"""Its tensors of one value a response; `weight` is a number and stands among the JSON values."""


def dump_groups(groups: Sequence[Group]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return `groups` as JSON values and named tensors; prompts are left out, `load_groups` makes them again."""
    rows: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for index, group in enumerate(groups):
        tensors |= {f"{index}.{name}": getattr(group, name) for name in _OF_A_GROUP}
        for name, values in group.parts.items():
            tensors[f"{index}.parts.{name}"] = values
        for number, completion in enumerate(group.completions):
            tensors[f"{index}.{number}.ids"] = completion.ids
            tensors[f"{index}.{number}.logprobs"] = completion.logprobs
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


def load_groups(
    rows: Sequence[dict[str, Any]], tensors: dict[str, Tensor], encode: Callable[[Example, int], Prompt]
) -> list[Group]:
    """Return the groups that `dump_groups` wrote; `encode(example, stream)` makes their prompts."""
    groups = []
    for index, row in enumerate(rows):
        example = _load_example(row["example"])
        completions = tuple(
            Completion(tensors[f"{index}.{number}.ids"], tensors[f"{index}.{number}.logprobs"], **completion)
            for number, completion in enumerate(row["completions"])
        )
        groups.append(
            Group(
                example=example,
                prompt=encode(example, row["stream"]),
                completions=completions,
                **{name: tensors[f"{index}.{name}"] for name in _OF_A_GROUP},
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


_RANDOM, _RANDOM_CUDA = "random.cpu", "random.cuda"


class Resumable(Protocol):
    """What knows where a run stands: `PromptStream`, or a sampler with its leftovers."""

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands, as JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


class RunState:
    """What a resumed run needs so that its weights, rollouts and metrics are those of a run never stopped."""

    def __init__(self, checkpoints: Checkpoints, policy: Policy, position: Resumable, encode: Encode) -> None:
        self.checkpoints = checkpoints
        self.policy = policy
        self.position = position
        self.encode = encode

    def save(self, step: int, record: dict[str, Any], best: int | None) -> Path:
        """Write a checkpoint after `step` steps, with `record` as JSON values; see `Checkpoints.save`."""
        position = self.position.state_dict()
        tensors: dict[str, Tensor] = {}
        if isinstance(self.position, GroupSampler):
            position["leftovers"], tensors = dump_groups(position["leftovers"])
        tensors[_RANDOM] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors[_RANDOM_CUDA] = torch.cuda.get_rng_state()
        return self.checkpoints.save(step, self.policy, {"position": position, "record": record}, tensors, best)

    def restore(self, note: Callable[[str], None]) -> tuple[int, dict[str, Any]] | None:
        """Load the newest whole checkpoint and return its step and `record`; None where there is none."""
        loaded = self.checkpoints.load_newest(self.policy, note)
        if loaded is None:
            note(f"no checkpoint in {self.checkpoints.folder}: starting anew")
            return None
        state, tensors = loaded
        position = state["position"]
        if isinstance(self.position, GroupSampler):
            position["leftovers"] = load_groups(position["leftovers"], tensors, self.encode)
        self.position.load_state_dict(position)
        torch.set_rng_state(tensors[_RANDOM])
        if _RANDOM_CUDA in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors[_RANDOM_CUDA])
        return int(state["step"]), state["record"]
