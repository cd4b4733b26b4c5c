"""Names that a user may write in a recipe, each imported as `module:attribute` only when it is used.

A new estimator, reward, order or engine is one new file (or function) and one line here; CONTRIBUTING.md says what
each must take and return.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError

REGISTRY: dict[str, dict[str, str]] = {
    "estimator": {
        "group_norm": "observe_r1.objective.advantages:group_norm",
        "dr_grpo": "observe_r1.objective.advantages:dr_grpo",
        "rloo": "observe_r1.objective.advantages:rloo",
        "reinforce_baseline": "observe_r1.objective.advantages:dr_grpo",
    },
    "kl estimator": {
        "k1": "observe_r1.objective.loss:k1",
        "k2": "observe_r1.objective.loss:k2",
        "k3": "observe_r1.objective.loss:k3",
    },
    "aggregation": {
        "token": "observe_r1.objective.loss:token_mean",
        "sequence": "observe_r1.objective.loss:sequence_mean",
        "constant": "observe_r1.objective.loss:constant_length",
    },
    "reward": {
        "accuracy": "observe_r1.rewards.accuracy:accuracy",
        "format": "observe_r1.rewards.format:format",
    },
    "order": {
        "ladder": "observe_r1.data.order:ladder",
        "random": "observe_r1.data.order:random",
        "adaptive": "observe_r1.data.order:adaptive",
    },
    "optimizer": {
        "adamw": "observe_r1.policy.optimizers:adamw",
        "adamw_8bit": "observe_r1.policy.optimizers:adamw_8bit",
    },
    "engine": {
        "embedded": "observe_r1.rollout.embedded:EmbeddedEngine",
        "vllm": "observe_r1.rollout.vllm:VLLMEngine",
    },
    "source": {
        "chartqa": "observe_r1.ladder.sources.charts:CHARTQA",
        "clevr_math": "observe_r1.ladder.sources.charts:CLEVR_MATH",
        "geometry3k": "observe_r1.ladder.sources.geometry:GEOMETRY3K",
        "geoqa": "observe_r1.ladder.sources.geometry:GEOQA",
        "logicvista": "observe_r1.ladder.sources.benchmarks:LOGICVISTA",
        "m3cot": "observe_r1.ladder.sources.science:M3COT",
        "mathv360k": "observe_r1.ladder.sources.mathematics:MATHV360K",
        "mathverse": "observe_r1.ladder.sources.benchmarks:MATHVERSE",
        "mathvision": "observe_r1.ladder.sources.mathematics:MATHVISION",
        "mathvista": "observe_r1.ladder.sources.benchmarks:MATHVISTA",
        "mmk12": "observe_r1.ladder.sources.science:MMK12",
        "mmmu": "observe_r1.ladder.sources.benchmarks:MMMU",
        "multimodal_open_r1": "observe_r1.ladder.sources.geometry:MULTIMODAL_OPEN_R1",
        "olympiadbench": "observe_r1.ladder.sources.benchmarks:OLYMPIADBENCH",
        "polymath": "observe_r1.ladder.sources.mathematics:POLYMATH",
        "scemqa": "observe_r1.ladder.sources.science:SCEMQA",
        "scienceqa": "observe_r1.ladder.sources.science:SCIENCEQA",
        "virl39k": "observe_r1.ladder.sources.mathematics:VIRL39K",
        "we_math": "observe_r1.ladder.sources.mathematics:WE_MATH",
    },
}

_HINTS = {
    ("estimator", "gae"): "gae needs a critic, and critics are not supported; use group_norm",
    ("estimator", "grpo"): "GRPO's estimator is group_norm",
}


def check(kind: str, name: str) -> str:
    """Return `name` if it is registered under `kind`.

    Raises:
        UserError: it is not; the message names those that are.
    """
    known = sorted(REGISTRY[kind])
    if name not in known:
        hint = _HINTS.get((kind, name)) or f"known: {', '.join(known)}{nearest(name, known)}"
        raise UserError(f"unknown {kind} {name!r}: {hint}")
    return name


def load(kind: str, name: str) -> Any:
    """Import and return what is registered as `name` under `kind`.

    Raises:
        UserError: as `check`.
    """
    return resolve(REGISTRY[kind][check(kind, name)])


def resolve(place: str) -> Any:
    """Import and return what `module:attribute` names."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


_MOST_SLIPS = 2


def nearest(name: str, known: Iterable[str], slip_in: int = 5) -> str:
    """Return ` (did you mean 'x'?)` for the known names `closest` to `name`, or an empty string."""
    return did_you_mean(closest(name, known, slip_in))


def did_you_mean(names: Sequence[str]) -> str:
    """Return ` (did you mean 'x' or 'y'?)` with three names at most, or an empty string for no names."""
    return f" (did you mean {' or '.join(map(repr, names[:3]))}?)" if names else ""


def beside(missing: Path, fits: Callable[[Path], bool]) -> str:
    """Return ` (did you mean 'x'?)` for the paths that `fits`, if `missing` is one of them but for a mistyped name."""
    with suppress(OSError):
        for there in filter(Path.is_dir, missing.parents):
            mistyped, *rest = missing.relative_to(there).parts
            fitting = [path.name for path in there.iterdir() if fits(path.joinpath(*rest))]
            return did_you_mean([str(there.joinpath(name, *rest)) for name in closest(mistyped, fitting)])
    return ""


def closest(name: str, known: Iterable[str], slip_in: int = 5) -> list[str]:
    """Return the known names that are the fewest typing errors away from `name`, if they are close at all.

    A slip is a character that is extra, missing, wrong or swapped with the next. A name may have one slip per `slip_in`
    characters, and two at most; names that differ by more mean different things. Each part of a dotted name is compared
    by itself, and may have one slip per four characters, rounded up from three.
    """
    slips = {other: count for other in known if (count := _slips(name, other, slip_in)) is not None}
    fewest = min(slips.values(), default=0)
    return [other for other, count in slips.items() if count == fewest]


def _slips(name: str, other: str, slip_in: int) -> int | None:
    """Return how many slips turn `other` into `name`; None if a part needs more than it may have."""
    parts, others = name.split("."), other.split(".")
    if len(parts) != len(others):
        return None
    counts = [_edits(part, another) for part, another in zip(parts, others, strict=True)]
    most = [len(part) // slip_in if len(parts) == 1 else (len(part) + 1) // 4 for part in parts]
    allowed = all(count <= min(_MOST_SLIPS, limit) for count, limit in zip(counts, most, strict=True))
    return sum(counts) if allowed else None


def _edits(one: str, other: str) -> int:
    """Return the optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours.

    Above `_MOST_SLIPS` it stops early and returns a lower bound, so that thousands of names are compared quickly.
    """
    if abs(len(one) - len(other)) > _MOST_SLIPS:
        return abs(len(one) - len(other))
    before, above = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, char in enumerate(one, start=1):
        row = [i]
        for j, another in enumerate(other, start=1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (char != another))
            if i > 1 and j > 1 and char == other[j - 2] and one[i - 2] == another:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        if min(row) > _MOST_SLIPS:
            return min(row)
        before, above = above, row
    return above[-1]
