"""What `observe-r1 plan` says of an update's memory, against what torch allocates: embedded and on two ranks.

Each case is a process of its own (two for two ranks, over gloo) with a random Qwen2.5-VL of real proportions, which
takes an update of two packs of different groups; the second is measured, so that gradients of the first are there.
Weights, masters, moments and gradients are counted tensor by tensor. What an update adds is the peak of torch's
allocator, as its profiler records every allocation; `kept activations` is what is allocated between forward and
backward pass, `one layer or logits` the rest of the peak.

    python benchmarks/plan_memory.py            writes results/plan_memory.json, and keeps there what is not repeated
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from racing.models import make_model
from racing.our_side import given_batch
from racing.work import write_questions
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from observe_r1.cluster.plan_layout import Layout
from observe_r1.cluster.plan_memory import Longest, memory_parts
from observe_r1.cluster.shape import read_shape
from observe_r1.cluster.sharded_policy import ShardedPolicy
from observe_r1.config import TrainSettings
from observe_r1.config.plan import PlanSettings
from observe_r1.demo.tiny_model import Sizes
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.policy.policy import Policy

HERE = Path(__file__).parent
MIB = 2**20
SIZES: dict[str, tuple[Sizes, int]] = {
    "38 M": (Sizes(384, 6, 6, 2, 1024, 320, 4, 4, 856), 65_536),
    "113 M": (Sizes(768, 8, 6, 2, 2816, 320, 6, 4, 856), 65_536),
    "311 M": (Sizes(1024, 10, 8, 2, 4096, 640, 8, 8, 1712), 151_936),
}
"""By their parameters: sizes and vocabulary."""
CASES: dict[str, dict[str, Any]] = {
    "everything": {},
    "everything, checkpointing": {"checkpointing": True},
    "everything, bfloat16, checkpointing": {"checkpointing": True, "dtype": "bfloat16"},
    "tower frozen": {"freeze": True},
    "LoRA, bfloat16": {"lora": 16, "dtype": "bfloat16"},
    "LoRA on 4 bits, bfloat16": {"lora": 16, "dtype": "bfloat16", "quantize": "4bit"},
    "two ranks": {"ranks": 2},
    "two ranks, bfloat16, checkpointing": {"ranks": 2, "checkpointing": True, "dtype": "bfloat16"},
    "two ranks, tower frozen": {"ranks": 2, "freeze": True},
}
RESPONSES = 3
PASSES = 3
"""Of each kind on ranks, of which the one that seems to take least counts; see `allocations`."""


def settings_of(folder: Path, case: dict[str, Any]) -> PlanSettings:
    """Return the settings of a case, for the model and the questions in `folder`."""
    values: dict[str, Any] = {
        "model": {
            "path": str(folder / "model"),
            "device": "cpu",
            "dtype": case.get("dtype", "float32"),
            "freeze": ["model.visual"] if case.get("freeze") else [],
            "gradient_checkpointing": case.get("checkpointing", False),
            "lora_rank": case.get("lora", 0),
            "quantize": case.get("quantize", "none"),
            "feature_cache": 0,
        },
        "data": {"path": str(folder / "questions" / "questions.json"), "format_prompt": "none"},
        "optimizer": {"tokens_per_pack": case.get("budget", 1250), "head_chunk": case.get("chunk", 128)},
        "cluster": {"gpus": case.get("ranks")},
    }
    return PlanSettings.model_validate(values)


def measure(folder: Path, case: dict[str, Any], ranks: int) -> dict[str, dict[str, float]]:
    """Return the bytes of each part, planned and measured, in this process, which is one rank of `ranks`."""
    settings, dtype = settings_of(folder, case), getattr(torch, case.get("dtype", "float32"))
    side, length = case.get("side", 40), case.get("response", 250)
    examples = write_questions(folder / f"questions-{os.getpid()}", 2 * max(ranks, 1), (side, side))
    policy = _policy(settings, dtype, ranks)
    prompts = [encode_prompt(each, policy.vlm.processor, settings.data, 0) for each in examples]
    generator = torch.Generator().manual_seed(0)
    responses = [torch.randint(10, 480, (length,), generator=generator) for _ in range(RESPONSES * len(prompts))]
    batch = given_batch(prompts, responses, torch.linspace(-1, 1.5, RESPONSES).repeat(len(prompts), 1))
    policy.update(batch)  # makes the moments
    measured = {
        "weights": _bytes([*policy.weights.parameters(), *_frozen(policy)]),
        "moments": _bytes(v for state in policy.optimizer.state.values() for v in state.values() if v.numel() > 1),
    }
    if policy.masters is not None:
        measured["gathered or copied weights"] = _bytes(p for p in policy.vlm.model.parameters() if p.requires_grad)
    measured["gradients"] = _bytes(policy.parameters)
    groups = [each.group for each in batch.groups]

    def forward() -> None:
        pack = next(iter(policy.logprob_model.packs(groups)))
        tokens.add(pack.ids.numel())
        scores.append(policy.logprob_model.score(pack))

    def kept() -> int:
        allocated = allocations(forward)[-1]
        scores.clear()
        for module in policy.logprob_model.score.modules():
            if hasattr(module, "reshard"):
                module.reshard()
        return allocated

    scores: list[Any] = []
    tokens: set[int] = set()
    times = range(PASSES if ranks else 1)
    measured["kept activations"] = min(kept() for _ in times)
    measured["peak"] = min(max(allocations(lambda: policy.update(batch))) for _ in times)
    grid = prompts[0].image_grid
    assert grid is not None
    pack = Longest(len(prompts[0].ids) + RESPONSES * (length - 1), int(grid.prod()))
    if tokens != {pack.tokens}:
        raise SystemExit(f"a pack has {tokens} tokens, not the {pack.tokens} of one group: change the budget")
    layout = Layout(max(ranks, 1), max(ranks, 1), max(ranks, 1), 1, 1, colocated=True)
    planned = memory_parts(
        settings, read_shape(settings.model), layout, pack, compute_bytes=dtype.itemsize, fused=False
    )
    return _compared(planned, measured, ranks)


def _policy(settings: TrainSettings, dtype: torch.dtype, ranks: int) -> Policy:
    vlm = load_model(settings.model)
    if ranks:
        return ShardedPolicy(vlm, settings.optimizer, settings.objective, settings.cluster, dtype=dtype)
    return Policy(vlm, settings.optimizer, settings.objective, dtype=dtype)


def _frozen(policy: Policy) -> Iterable[Tensor]:
    return (p for p in policy.vlm.model.parameters() if not p.requires_grad and policy.weights is not policy.vlm.model)


def _bytes(tensors: Iterable[Tensor]) -> float:
    """Return what tensors take here, each storage once."""
    local = [each.to_local() if isinstance(each, DTensor) else each for each in tensors]
    return sum({each.data_ptr(): each.numel() * each.element_size() for each in local}.values())


def allocations(work: Callable[[], Any]) -> list[int]:
    """Return the bytes allocated beyond those at first, after each allocation and release while `work` runs.

    Gloo's threads, which no profiler watches, sometimes release a block after the pass has: its address then shows it.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    found: list[tuple[int, int, int]] = []
    waiting = list(profile.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    while waiting:
        event = waiting.pop()
        waiting += event.children
        fields = event.extra_fields
        if type(fields).__name__ == "_ExtraFields_Allocation":
            found.append((event.start_time_ns, fields.alloc_size, fields.ptr))
    found.sort(key=lambda each: each[0])
    total, totals = 0, []
    blocks: dict[int, int] = {}
    for _, size, address in found:
        released = blocks.pop(address, 0)
        if size > 0:
            total += size - released
            blocks[address] = size
        else:
            total += size
        totals.append(total)
    return totals


def _compared(planned: dict[str, float], measured: dict[str, float], ranks: int) -> dict[str, dict[str, float]]:
    """Pair the parts. Of ranks the allocator's sums hold gathered weights, too, so those are one part with them."""
    peak = measured.pop("peak") - measured["gradients"]
    together = ["kept activations"] + (["gathered or copied weights"] if ranks else [])
    kept = sum(planned.pop(name) for name in together)
    planned["kept activations"] = kept
    measured["one layer or logits"] = peak - measured["kept activations"]
    parts = {name: {"planned": planned[name], "measured": measured[name]} for name in measured}
    parts["in all"] = {side: sum(part[side] for part in parts.values()) for side in ("planned", "measured")}
    return parts


def run_case(folder: Path, case: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Run a case in processes of its own, and return what its first rank says."""
    ranks = case.get("ranks", 0)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as store:
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--rank", json.dumps([rank, ranks, str(folder), store, case])],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(max(ranks, 1))
        ]
        said = [process.communicate()[1] for process in processes]
        if any(process.returncode for process in processes):
            raise SystemExit("\n".join(said))
        return json.loads((Path(store) / "0.json").read_text())


def _as_rank(rank: int, ranks: int, folder: str, store: str, case: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    if ranks:
        place = f"file://{store}/store"
        distributed.init_process_group("gloo", place, timedelta(seconds=300), world_size=ranks, rank=rank)
    parts = measure(Path(folder), case, ranks)
    (Path(store) / f"{rank}.json").write_text(json.dumps(parts))
    if ranks:
        distributed.destroy_process_group()


def main() -> None:
    """Measure every case at every size, print the ratios and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SIZES, nargs="*", default=list(SIZES))
    parser.add_argument("--case", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "plan_memory.json")
    arguments = parser.parse_args()
    if arguments.rank:
        _as_rank(*arguments.rank)
        return
    arguments.output.parent.mkdir(exist_ok=True)
    found: list[dict[str, Any]] = []
    if arguments.output.exists():
        found = json.loads(arguments.output.read_text())["cases"]
    for size in arguments.size:
        with tempfile.TemporaryDirectory() as name:
            sizes, vocabulary = SIZES[size]
            make_model(Path(name) / "model", sizes, vocabulary=vocabulary)
            for case in arguments.case:
                parts = run_case(Path(name), CASES[case])
                found = [each for each in found if (each["size"], each["case"]) != (size, case)]
                found.append({"size": size, "case": case, "parts": parts})
                for part, both in parts.items():
                    planned, measured = (both[side] / MIB for side in ("planned", "measured"))
                    ratio = planned / measured if measured else 1.0
                    print(f"{size}, {case}: {part}: {planned:.1f} MiB of {measured:.1f}, {ratio - 1:+.1%}", flush=True)
                found.sort(key=lambda each: (list(CASES).index(each["case"]), list(SIZES).index(each["size"])))
                result = {"torch": torch.__version__, "machine": platform.machine(), "cases": found}
                arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
