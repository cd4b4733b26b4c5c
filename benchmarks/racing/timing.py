"""Repetitions of several sides, interleaved, because the machine's speed drifts."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleave(sides: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Run all sides in turn `repetitions` times, each warmed up before; seconds by side."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def compare(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return each side's median seconds and, for all but `ours`, the median ratio of its seconds to ours."""
    ratios = {
        name: [theirs / ours for theirs, ours in zip(values, seconds["ours"], strict=True)]
        for name, values in seconds.items()
        if name != "ours"
    }
    return {
        "seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "faster": {name: round(statistics.median(values), 2) for name, values in ratios.items()},
        "ratios": {name: [round(value, 3) for value in values] for name, values in ratios.items()},
    }
