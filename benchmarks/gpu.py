"""Update and sampling on one GPU, ours and TRL's, on random weights in the shapes of Qwen2.5-VL-3B; no network needed.

Four prompts of about 1,300 tokens, each with an image of 1,260, and eight responses to each, of log-normal lengths
(median 175, σ 0.5, at most 1,024); bfloat16 over float32 master weights, gradient checkpointing, image tower trained.
Each side runs in a process of its own, because one GPU's memory does not hold both. *Of peak* is the arithmetic of text
model and head on tokens really computed, forward and backward, recomputation not counted, over the time of the whole
update, against the fastest large matrix product on the same device.

    python benchmarks/gpu.py                                    writes results/gpu.json
    python benchmarks/gpu.py --device cpu --tiny --output X     the same on a tiny model, to see that it works
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from racing.models import QWEN2_5_VL_3B, VOCABULARY, make_model
from racing.our_side import given_batch
from racing.set_up import our_side, questions, work_of
from racing.trl_side import TRLSide
from racing.work import script

from observe_r1.config import TrainSettings
from observe_r1.demo.tiny_model import TINY
from observe_r1.records import Example

PROMPTS, GROUP, LONGEST = 4, 8, 1024
GRID, TINY_GRID = (60, 84), (8, 8)


def measure(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one side in this process."""
    given = script(PROMPTS, GROUP, "real", longest=LONGEST, scale=0.05 if arguments.tiny else 1.0)
    with questions(
        arguments.model,
        TINY_GRID if arguments.tiny else GRID,
        prompts=PROMPTS,
        device=arguments.device,
        dtype="bfloat16",
        checkpointing=True,
        longest=LONGEST,
    ) as (settings, examples):
        run = _ours if side == "ours" else _theirs
        return {"responses": str(given), "peak": _peak(arguments.device)} | run(settings, examples, given, arguments)


def _ours(settings: TrainSettings, examples: list[Example], given: Any, arguments: argparse.Namespace) -> dict:
    with our_side(settings, examples) as ours:
        ours.follow(given)
        result = {"sampling": _clocked(ours.sample, arguments)}
        responses = [completion.ids for group in ours.sample() for completion in group]
        batch = given_batch(ours.prompts, responses, torch.linspace(-1.0, 1.5, PROMPTS * GROUP).view(PROMPTS, GROUP))
        result["update"] = _clocked(lambda: ours.update(batch), arguments)
        work = work_of(ours, given)
        result["prompt_tokens"] = len(ours.prompts[0].ids)
        result["text_operations"] = work.update()[1] - 3 * PROMPTS * work.costs.image
    return result


def _theirs(settings: TrainSettings, examples: list[Example], given: Any, arguments: argparse.Namespace) -> dict:
    peer = TRLSide(settings, examples)
    peer.follow(given)
    result = {"sampling": _clocked(peer.sample, arguments)}
    batch = peer.sample()
    batch["advantages"] = torch.linspace(-1.0, 1.5, PROMPTS * GROUP).to(batch["advantages"])
    return result | {"update": _clocked(lambda: peer.update(batch), arguments)}


def _clocked(work: Callable[[], object], arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each repetition after one that compiles kernels, and the most memory that any of them takes."""
    cuda = arguments.device == "cuda"
    work()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = [_seconds(work, cuda) for _ in range(arguments.repetitions)]
    return {"seconds": seconds, "gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if cuda else None}


def _seconds(work: Callable[[], object], cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _peak(device: str) -> float:
    """Operations a second of the fastest large matrix product in bfloat16."""
    size = 8192 if device == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / min(_seconds(lambda: left @ right, device == "cuda") for _ in range(20))


def summary(ours: dict[str, Any], theirs: dict[str, Any], response_tokens: int) -> str:
    """Return a Markdown table of both sides' response tokens a second, memory and share of the peak."""
    lines = ["| | ours, tokens/s | TRL, tokens/s | faster | ours, GiB | TRL, GiB | ours, of peak |", "|---" * 7 + "|"]
    for name in ("update", "sampling"):
        mine, others = (statistics.median(side[name]["seconds"]) for side in (ours, theirs))
        share = f"{ours['text_operations'] / mine / ours['peak']:.0%}" if name == "update" else ""
        lines.append(
            f"| {name} | {response_tokens / mine:,.0f} | {response_tokens / others:,.0f} | {others / mine:.2f} "
            f"| {ours[name]['gib']} | {theirs[name]['gib']} | {share} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run both sides, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short responses")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    parser.add_argument("--side", choices=("ours", "TRL"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is available; --device cpu --tiny shows that the benchmark works")
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as name:
        sizes = TINY if arguments.tiny else QWEN2_5_VL_3B
        model = make_model(Path(name) / "model", sizes, vocabulary=VOCABULARY, device=arguments.device)
        for side in ("ours", "TRL"):
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--model", str(model)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[side] = json.loads(output.splitlines()[-1])
    tokens = int(script(PROMPTS, GROUP, "real", longest=LONGEST, scale=0.05 if arguments.tiny else 1.0).lengths.sum())
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    versions = {package: version(package) for package in ("torch", "transformers", "trl")}
    result = {"device": device, "versions": versions, "response_tokens": tokens, **results}
    print(summary(results["ours"], results["TRL"], tokens))
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
