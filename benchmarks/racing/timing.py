"""Seconds of one side alone, and of several sides in turn."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Time one call, on a GPU up to the end of everything that it queued there."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def repeated(work: Callable[[], object], device: str, repetitions: int) -> Iterator[list[float]]:
    """Yield the seconds of all calls so far, after each of them: a caller can write them down before the next."""
    measured: list[float] = []
    for _ in range(repetitions):
        measured.append(round(seconds(work, device), 4))
        yield measured


def kernel_ms(work: Callable[[], object], device: str, calls: int = 20) -> float:
    """Return the milliseconds of one call among many that are queued at once: the median of three such queues.

    The first calls, which compile and choose kernels, are not counted.
    """

    def queue() -> None:
        for _ in range(calls):
            work()

    for _ in range(3):
        work()
    return 1e3 * statistics.median(seconds(queue, device) for _ in range(3)) / calls


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleave(sides: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Run all sides in turn `repetitions` times, because the machine's speed drifts; return seconds by side.

    Each side must have been warmed up before.
    """
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, run in sides.items():
            measured[name].append(seconds(run))
    return measured


def compare(measured: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return each side's median seconds and, for all but `ours`, the median ratio of its seconds to ours."""
    ratios = {
        name: [theirs / ours for theirs, ours in zip(values, measured["ours"], strict=True)]
        for name, values in measured.items()
        if name != "ours"
    }
    return {
        "seconds": {name: round(statistics.median(values), 3) for name, values in measured.items()},
        "faster": {name: round(statistics.median(values), 2) for name, values in ratios.items()},
        "ratios": {name: [round(value, 3) for value in values] for name, values in ratios.items()},
    }
