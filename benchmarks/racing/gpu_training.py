"""Stages of `gpu.py` with the whole model: updates and decoding of ours, and TRL's update.

Both sides are given the same weights, images and responses. What TRL does before its update, images preprocessed and
rewards computed, is done once, outside of what is timed, as encoding prompts is on our side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from observe_r1.config import TrainSettings
from observe_r1.demo.tiny_model import TINY
from observe_r1.records import Completion, Example, Sampling
from racing.counting import Work, costs
from racing.gpu_kernels import GRID, TINY_GRID, rounded
from racing.models import QWEN2_5_VL_3B, VOCABULARY, make_model
from racing.our_side import OurSide, given_batch
from racing.set_up import our_side, questions, work_of
from racing.timing import repeated, seconds
from racing.work import Script, random_responses, script

if TYPE_CHECKING:
    from gpu import Case

PROMPTS, GROUP, LONGEST = 4, 8, 1024
KERNELS = 30
"""Kernels that the profile lists."""


def write_model(case: Case) -> None:
    """Write the checkpoint that the later stages load."""
    sizes, vocabulary = (TINY, 2048) if case.tiny else (QWEN2_5_VL_3B, VOCABULARY)
    taken = seconds(lambda: make_model(case.model, sizes, vocabulary=vocabulary, device=case.device), case.device)
    size = sum(file.stat().st_size for file in case.model.iterdir())
    case.note(seconds=rounded(taken), gib=rounded(size / 2**30))


def given_script(case: Case) -> Script:
    """Return the lengths of the responses: 7,270 tokens, or a twentieth of them."""
    return script(PROMPTS, GROUP, "real", longest=LONGEST, scale=0.05 if case.tiny else 1.0)


def advantages() -> Tensor:
    """(PROMPTS, GROUP), none of them zero, and with a sum that is not, so that the loss is not zero either."""
    return torch.linspace(-1.0, 1.5, PROMPTS * GROUP).view(PROMPTS, GROUP)


def _questions(case: Case, **options: Any) -> AbstractContextManager[tuple[TrainSettings, list[Example]]]:
    return questions(
        case.model,
        TINY_GRID if case.tiny else GRID,
        prompts=PROMPTS,
        device=case.device,
        dtype="bfloat16",
        checkpointing=True,
        longest=LONGEST,
        **options,
    )


@contextmanager
def _loaded(case: Case, **options: Any) -> Iterator[OurSide]:
    """Load our side, and note how long that takes."""
    started = time.perf_counter()
    with _questions(case, **options) as (settings, examples), our_side(settings, examples) as ours:
        case.note(load_s=rounded(time.perf_counter() - started))
        yield ours


def update(case: Case) -> None:
    """Measure our update with the image tower trained, and the kernels that take longest in it."""
    with _loaded(case) as ours:
        case.note(profile=_profile(_our_updates(case, ours), case.device))


def frozen_update(case: Case) -> None:
    """Measure our update with the image tower frozen and its features kept."""
    with _loaded(case, freeze=True) as ours:
        _our_updates(case, ours)


def offloaded_update(case: Case) -> None:
    """Measure our update with float32 weights and moments in the CPU's memory."""
    with _loaded(case, offload=True) as ours:
        _our_updates(case, ours)


def _our_updates(case: Case, ours: OurSide) -> Callable[[], tuple[float, float]]:
    """Measure our update and return it."""
    given = given_script(case)
    batch = given_batch(ours.prompts, _responses(given, ours.vlm.model.config), advantages())

    def update() -> tuple[float, float]:
        metrics = ours.update(batch)
        return metrics["policy/loss"], metrics["policy/grad_norm"]

    case.note(prompt_tokens=len(ours.prompts[0].ids), tflop=rounded(work_of(ours, given).update()[1] / 1e12))
    for figures in _updates(update, given, case.device, repetitions=3):
        case.note(**figures)
    return update


def trl_update(case: Case) -> None:
    """Measure TRL's update with its image tower as shipped and with our attention there, and its sampling."""
    from racing.trl_side import TRLSide

    given = given_script(case)
    started = time.perf_counter()
    with _questions(case) as (settings, examples):
        peer = TRLSide(settings, examples)
        case.note(load_s=rounded(time.perf_counter() - started))
        peer.answer(_responses(given, peer.model.config))
        batch = peer.sample()
        batch["advantages"] = advantages().flatten().to(batch["advantages"])
        tokens = int(batch["prompt_mask"][0].sum())
        patches = int(batch["image_grid_thw"][0].prod())
        work = Work(costs(peer.model, patches), tokens, given, head_on_prompts=case.device == "cpu")
        operations = {"prompt_tokens": tokens, "tflop": rounded(work.update()[0] / 1e12)}

        def update() -> tuple[float, float]:
            metrics = peer.update(batch)
            return metrics["loss"], metrics["grad_norm"]

        for way in ("as shipped", "fused windows"):
            if way == "fused windows":
                peer.fuse_tower()
            for figures in _updates(update, given, case.device, repetitions=2):
                case.note(**{way: operations | figures})
        length = _decoded(case)
        peer.follow(Script(torch.full((PROMPTS, GROUP), length), torch.ones(PROMPTS, GROUP, dtype=torch.bool)))
        peer.sample()
        taken = seconds(peer.generate, case.device)
        case.note(**{f"generate {PROMPTS * GROUP} × {length}": {"seconds": rounded(taken)}})


def _updates(
    update: Callable[[], tuple[float, float]], given: Script, device: str, repetitions: int
) -> Iterator[dict[str, Any]]:
    """Yield, after each repetition, what is known of an update that returns its loss and its gradient's norm.

    The first one, which compiles kernels, is timed apart. The memory is the most that the others take.
    """
    values: list[float] = []
    taken = seconds(lambda: values.extend(update()), device)
    loss, norm = (float(f"{value:.5g}") for value in values)
    figures = {"first_s": rounded(taken), "loss": loss, "grad_norm": norm, "response_tokens": int(given.lengths.sum())}
    yield figures
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for measured in repeated(update, device, repetitions):
        gib = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
        yield figures | {"seconds": measured, "gib": gib and rounded(gib)}


def _profile(work: Callable[[], object], device: str) -> dict[str, Any]:
    """Return the longest kernels (on the CPU: operations) of one call, all of theirs together, and the call's time."""
    kind = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiler:
        taken = seconds(work, device)
    spent = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"  # microseconds
    events = sorted(profiler.key_averages(), key=lambda event: getattr(event, spent), reverse=True)
    kernels = [
        {"name": event.key[:160], "calls": event.count, "ms": rounded(getattr(event, spent) / 1e3)}
        for event in events[:KERNELS]
    ]
    total = sum(getattr(event, spent) for event in events)
    return {"call_ms": rounded(1e3 * taken), "kernels_ms": rounded(total / 1e3), "longest": kernels}


def decoding(case: Case) -> None:
    """Measure sampling with every response equally long, and compare its log-probabilities with the policy's."""
    length = _decoded(case)
    with _loaded(case) as ours:
        ours.engine.vlm = replace(ours.vlm, stop_ids=())
        for rows in (8, 16) if case.tiny else (32, 256):

            def sample(tokens: int, rows: int = rows) -> list[list[Completion]]:
                return ours.engine.generate(ours.prompts, Sampling(n=rows // PROMPTS, max_new_tokens=tokens))

            first = seconds(lambda: sample(length), case.device)
            prefill = seconds(lambda: sample(1), case.device)
            taken = seconds(lambda: sample(length), case.device)
            figures = {
                "first_s": rounded(first),
                "prefill_s": rounded(prefill),
                "seconds": rounded(taken),
                "step_ms": rounded(1e3 * (taken - prefill) / (length - 1)),
                "tokens_per_second": rounded(rows * length / taken),
            }
            name = f"{rows} × {length}"
            case.note(**{name: figures})
            difference = _difference(ours, sample(length))
            figures |= {"mean_difference": rounded(difference.mean()), "largest_difference": rounded(difference.max())}
            case.note(**{name: figures})


def _difference(ours: OurSide, sampled: list[list[Completion]]) -> Tensor:
    """Return how far the policy's log-probability of each sampled token is from the sampler's."""
    completions = [completion for group in sampled for completion in group]
    responses = [completion.ids for completion in completions]
    batch = given_batch(ours.prompts, responses, torch.ones(len(sampled), len(sampled[0])))
    scored = torch.cat(ours.policy.logprobs([each.group for each in batch.groups]))
    return (scored - torch.cat([completion.logprobs for completion in completions])).abs()


def _decoded(case: Case) -> int:
    """Tokens of each response where sampling is measured."""
    return 8 if case.tiny else 64


def _responses(given: Script, config: Any) -> list[Tensor]:
    return random_responses(given, config.text_config.vocab_size, config.text_config.eos_token_id)
