"""Ten minutes on one GPU: where its time goes, ours and TRL's, on random weights in the shapes of Qwen2.5-VL-3B.

Four prompts of about 1,300 tokens, each with an image of 1,260, and eight responses to each, of log-normal lengths
(median 175, σ 0.5, at most 1,024), the same for both sides; bfloat16 over float32 weights, gradient checkpointing. No
network and no downloaded weights are needed; `benchmarks/README.md` says how to run it on a machine without a network.

    python benchmarks/gpu.py                                    writes results/gpu.json
    python benchmarks/gpu.py --only offloaded                   one stage again; the other results stay in the file
    python benchmarks/gpu.py --device cpu --tiny --output X     every stage on a tiny model, to see that it works

Each stage runs in a process of its own with a time limit. What it measures is on disk at once. A stage that fails or
hangs is recorded with its last output, and the next one runs.

Operations are counted from the model's configuration (`racing/counting.py`), the image tower's patch by patch;
recomputation by gradient checkpointing is not counted. TRL's count has the prompt and its image once a response and
padding to the longest response, because that is what it computes. *Of peak* is these operations a second over those of
a large matrix product on the same device, *of 989* over the data sheet's 989 TFLOP/s of an H100 or H200.
"""

import argparse
import faulthandler
import importlib
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from observe_r1.files import write_atomic  # noqa: E402  # the path has to be set first

STAGES = {
    "device": ("racing.gpu_kernels:device", 25),
    "attention": ("racing.gpu_kernels:attention", 70),
    "tower": ("racing.gpu_kernels:tower", 45),
    "model": ("racing.gpu_training:write_model", 60),
    "update": ("racing.gpu_training:update", 120),
    "frozen": ("racing.gpu_training:frozen_update", 60),
    "decoding": ("racing.gpu_training:decoding", 80),
    "trl": ("racing.gpu_training:trl_update", 150),
    "offloaded": ("racing.gpu_training:offloaded_update", 80),
}
"""Each stage's function, and the seconds after which it is stopped. The order is that of the run."""
CPU_PATIENCE = 4
"""On the CPU a stage has so many times its seconds: other work may share the cores."""
DATA_SHEET = 989.0
"""TFLOP/s of an H100 or H200 in bfloat16, without sparsity."""
LEAST = 5.0
"""Seconds without which a stage is not started."""
LAST_OUTPUT = 6000
"""Characters of a failed stage's output that are recorded."""

Results = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What a stage is given, and where it writes what it finds."""

    stage: str
    model: Path
    """Folder of the checkpoint that the stage `model` writes and later ones read."""
    output: Path
    """The file of results."""
    device: str
    """`cuda` or `cpu`."""
    tiny: bool
    """Whether the sizes are those of a test."""

    def note(self, **figures: Any) -> None:
        """Add figures to the stage's results and write the file at once."""
        results = json.loads(self.output.read_text())
        results["stages"].setdefault(self.stage, {}).update(figures)
        write_atomic(self.output, json.dumps(results, indent=2) + "\n")


def run_stage(context: Any, case: Case, place: str, limit: float, log: Path) -> str:
    """Run one stage in a process, record how it ended, and return that.

    Args:
        context: of `multiprocessing`.
        case: what the stage is given.
        place: `module:function` of the stage.
        limit: seconds until it is stopped; with few or none left it is not started.
        log: file for its output, of which the end is recorded if it fails.
    """
    if limit < LEAST:
        case.note(status="left out: no time left")
        return "left out: no time left"
    case.note(status="running")
    started = time.perf_counter()
    process = context.Process(target=_child, args=(case, place, log))
    process.start()
    try:
        process.join(limit)
        stopped = process.is_alive()
    finally:
        _end(process)
    status = f"stopped after {limit:.0f} s" if stopped else "done"
    if not stopped and process.exitcode:
        status = f"failed with exit code {process.exitcode}"
    end: dict[str, Any] = {"status": status, "stage_seconds": round(time.perf_counter() - started, 1)}
    if status != "done":
        end["last_output"] = log.read_text(errors="replace")[-LAST_OUTPUT:] if log.exists() else ""
    case.note(**end)
    return status


def _child(case: Case, place: str, log: Path) -> None:
    """Run a stage in this process. Asked by SIGUSR1, it writes what every thread is doing."""
    os.setpgrp()  # what the stage starts ends with it
    with log.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    tempfile.tempdir = str(case.model.parent)  # so that nothing is left behind where the stage is killed
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    module, function = place.split(":")
    getattr(importlib.import_module(module), function)(case)


def _end(process: BaseProcess) -> None:
    """Stop a stage that still runs, after it has written where, and all that it started."""
    assert process.pid is not None
    if process.is_alive():
        os.kill(process.pid, signal.SIGUSR1)
        process.join(1)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def start_context() -> Any:
    """Return a context whose processes start with torch and transformers imported.

    Nothing that is imported there may touch the GPU: a process that has cannot be forked.
    """
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # torch.cuda.is_available() asks the driver's library alone
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["racing.gpu_kernels", "racing.gpu_training"])
    return context


def summary(results: Results) -> str:
    """Return what was measured as Markdown: the device, kernels, updates, decoding, and which stages did not end."""
    stages = results["stages"]
    measured = stages.get("device", {})
    lines = [f"{measured.get('name')}: {measured.get('peak_tflops')} TFLOP/s, copies {measured.get('copy_gbs')} GB/s"]
    lines += ["", "| kernel | forward, ms | forward and backward, ms | error |", "|---" * 4 + "|"]
    lines += [line for name in ("attention", "tower") for line in _kernels(name, stages.get(name, {}))]
    lines += ["", "| update | seconds | tokens/s | GiB | TFLOP | of peak | of 989 |", "|---" * 7 + "|"]
    updates = {name: stages.get(name, {}) for name in ("update", "frozen", "offloaded")}
    updates |= {f"TRL, {way}": stages.get("trl", {}).get(way, {}) for way in ("as shipped", "fused windows")}
    medians = {name: statistics.median(update["seconds"]) for name, update in updates.items() if "seconds" in update}
    for name, middle in medians.items():
        update, speed = updates[name], updates[name]["tflop"] / middle
        of_peak = f"{speed / measured['peak_tflops']:.0%}" if "peak_tflops" in measured else ""
        lines.append(
            f"| {name} | {middle:.3g} | {update['response_tokens'] / middle:,.0f} | {update['gib']} "
            f"| {update['tflop']:.4g} | {of_peak} | {speed / DATA_SHEET:.0%} |"
        )
    lines += ["", "| decoding | ms a step | tokens/s | mean difference | largest |", "|---" * 5 + "|"]
    for name, rows in stages.get("decoding", {}).items():
        if isinstance(rows, dict):
            lines.append(
                f"| {name} | {rows['step_ms']} | {rows['tokens_per_second']:,.0f} | {rows.get('mean_difference')} "
                f"| {rows.get('largest_difference')} |"
            )
    lines.append("")
    for name, middle in medians.items():
        if name.startswith("TRL") and "update" in medians:
            lines.append(f"{name}: an update takes {middle / medians['update']:.2f} times as long as ours")
    lines += [f"{name}: {stage['status']}" for name, stage in stages.items() if stage["status"] != "done"]
    return "\n".join(lines)


def _kernels(name: str, figures: Any) -> list[str]:
    """Return a row of the table for everything in `figures` that was timed or failed, named by the way to it."""
    if not isinstance(figures, dict):
        return []
    if "failed" in figures:
        return [f"| {name} | {figures['failed'].partition(chr(10))[0][:60]} | | |"]
    if "both_ms" in figures:
        return [f"| {name} | {figures['forward_ms']} | {figures['both_ms']} | {figures['error']} |"]
    return [line for key, value in figures.items() for line in _kernels(f"{name}, {key}", value)]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short responses")
    parser.add_argument("--only", choices=STAGES, action="append", help="a stage to run; may be repeated")
    parser.add_argument("--seconds", type=float, default=540, help="for all stages together (default: 540)")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gpu.json")
    return parser.parse_args()


def chosen(only: Sequence[str] | None) -> list[str]:
    """Return the stages to run, in their order: all, or `only` some and the model that they need."""
    order = list(STAGES)
    if not only:
        return order
    needs_model = any(order.index(stage) > order.index("model") for stage in only)
    return [stage for stage in order if stage in only or (stage == "model" and needs_model)]


def main() -> int:
    """Run the stages and print the tables; the exit code is 1 where a stage did not end well."""
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the stage, too
    deadline = time.monotonic() + asked.seconds
    context = start_context()
    if asked.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("no CUDA device is available; --device cpu --tiny shows that the benchmark works")
    earlier = json.loads(asked.output.read_text()) if asked.only and asked.output.exists() else {"stages": {}}
    for stage in chosen(asked.only):
        earlier["stages"].pop(stage, None)
    write_atomic(asked.output, json.dumps(earlier, indent=2) + "\n")
    well = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stage in chosen(asked.only):
            case = Case(stage, folder / "model", asked.output, asked.device, asked.tiny)
            limit = STAGES[stage][1] * (CPU_PATIENCE if asked.device == "cpu" else 1)
            left = deadline - time.monotonic()
            status = run_stage(context, case, STAGES[stage][0], min(limit, left), folder / f"{stage}.log")
            well &= status == "done"
            print(f"{stage}: {status}", flush=True)
    results = json.loads(asked.output.read_text())
    for name, stage in results["stages"].items():
        if "last_output" in stage:
            print(f"\n{name}: {stage['last_output'][-1500:]}")
    print(f"\n{summary(results)}\n\nwrote {asked.output}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
