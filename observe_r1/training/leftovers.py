"""Leftover groups in a checkpoint: JSON for what is text, tensors beside it."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from observe_r1.records import Completion, Example, Group, Prompt

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
