"""One update, shared prefix against one padded forward per response, on the same model.

Both sides take one optimizer step on one group: the same random Qwen2.5-VL of about 25 M parameters (hidden 512, six
layers each in text model and image tower, small vocabulary), the same prompt with one image, the same 8 responses of
126 to 200 tokens, float32, the image tower trained, logits on response positions only. The plain side is what trainers
do: prompt and image repeated for each response, responses padded to the longest, transformers' SDPA attention.

    python benchmarks/update_vs_plain.py --repetitions 5 --threads 2
"""

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch
from small_model import SIZES
from torch import Tensor
from transformers import Qwen2_5_VLConfig

from observe_r1.config import ObjectiveSettings, OptimizerSettings
from observe_r1.model.attention import use_shared_prefix
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.objective import policy_loss_terms
from observe_r1.policy.policy import Policy
from observe_r1.records import Completion, Example, Group, Prompt, TrainingBatch
from observe_r1.world.tiny_model import build_model

IMAGES = {280: (28, 32), 1050: (62, 64)}  # prompt tokens, about: image (height, width) in patches
TEXT = 54
LENGTHS = (126, 137, 148, 158, 169, 180, 190, 200)
OPTIMIZER = OptimizerSettings(lr=1e-6, tokens_per_pack=100_000)
OBJECTIVE = ObjectiveSettings()


def make_group(config: Qwen2_5_VLConfig, image: tuple[int, int]) -> Group:
    """A prompt of one image and random text, with random responses."""
    generator = torch.Generator().manual_seed(0)
    height, width = image

    def text(length: int) -> Tensor:
        return torch.randint(20, config.text_config.vocab_size, (length,), generator=generator)

    start, end = torch.tensor([config.vision_start_token_id]), torch.tensor([config.vision_end_token_id])
    pads = torch.full((height * width // 4,), config.image_token_id)
    ids = torch.cat([start, pads, end, text(TEXT)])
    prompt = Prompt(
        ids=ids,
        unexpanded_ids=ids,
        token_types=(ids == config.image_token_id).long(),
        images=(),
        pixel_values=torch.randn(height * width, 1176, generator=generator),
        image_grid=torch.tensor([[1, height, width]]),
    )
    completions = tuple(
        Completion(ids=text(n), logprobs=torch.full((n,), -7.0), text="", version=0, finish="stop") for n in LENGTHS
    )
    example = Example(id="x", messages=(), images=(), answer="")
    count = len(LENGTHS)
    return Group(example, prompt, completions, torch.zeros(count), torch.zeros(count, dtype=torch.bool))


def make_batch(group: Group) -> TrainingBatch:
    """Advantages that differ by response; token-level mean; on-policy."""
    advantages = torch.linspace(-1.5, 1.5, len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    weights = torch.full((sum(LENGTHS),), 1 / sum(LENGTHS))
    return TrainingBatch((group,), (advantages,), (weights,), learning_rate=OPTIMIZER.lr)


class Plain:
    """One padded row per response, prompt and image included."""

    def __init__(self, seed: int) -> None:
        self.model = build_model(SIZES, seed=seed).train()
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=OPTIMIZER.lr, betas=OPTIMIZER.betas, fused=True)

    def update(self, batch: TrainingBatch) -> dict[str, float]:
        """The same step as `Policy.update`."""
        (group,), (advantages,), (weights,) = batch.groups, batch.advantages, batch.loss_weights
        prompt, count, longest = group.prompt, len(LENGTHS), max(LENGTHS)
        responses = torch.zeros(count, longest, dtype=torch.long)
        real = torch.zeros(count, longest, dtype=torch.bool)
        for row, completion in enumerate(group.completions):
            responses[row, : len(completion.ids)] = completion.ids
            real[row, : len(completion.ids)] = True
        before = len(prompt.ids)
        self.optimizer.zero_grad()
        self.model.model.rope_deltas = None
        logits = self.model(
            input_ids=torch.cat([prompt.ids.expand(count, -1), responses], dim=1),
            attention_mask=torch.cat([torch.ones(count, before, dtype=torch.bool), real], dim=1).long(),
            pixel_values=prompt.pixel_values.repeat(count, 1),
            image_grid_thw=prompt.image_grid.repeat(count, 1),
            mm_token_type_ids=torch.cat([prompt.token_types.expand(count, -1), torch.zeros_like(responses)], dim=1),
            logits_to_keep=longest + 1,
            use_cache=False,
        ).logits[:, :-1]
        placeholders = torch.tensor([self.model.config.image_token_id, self.model.config.video_token_id])
        logits = logits.index_fill(2, placeholders, float("-inf"))
        logprobs = logits.log_softmax(-1).gather(2, responses[..., None])[..., 0][real]
        terms, _ = policy_loss_terms(logprobs, logprobs.detach(), advantages, OBJECTIVE.clip_low, OBJECTIVE.clip_high)
        loss = (terms * weights).sum()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, OPTIMIZER.max_grad_norm))
        self.optimizer.step()
        return {
            "policy/loss": float(loss.detach()),
            "policy/grad_norm": norm,
            "policy/logprob": float(logprobs.detach().mean()),
        }


def shared_policy(seed: int) -> Policy:
    """The policy as the trainer builds it."""
    model = build_model(SIZES, seed=seed)
    use_shared_prefix(model)
    forbidden = (model.config.image_token_id, model.config.video_token_id)
    vlm = VisionLanguageModel(model.train(), processor=None, forbidden=forbidden, stop_ids=())
    return Policy(vlm, OPTIMIZER, OBJECTIVE)


def race(image: tuple[int, int], repetitions: int) -> dict[str, object]:
    """Check that both sides take the same step, then time them in turn."""
    sides = {"plain": Plain(seed=0), "shared": shared_policy(seed=0)}
    batch = make_batch(make_group(sides["plain"].model.config, image))
    first = {name: side.update(batch) for name, side in sides.items()}
    for key in ("policy/loss", "policy/grad_norm", "policy/logprob"):
        plain, shared = first["plain"][key], first["shared"][key]
        if abs(plain - shared) > 1e-3 * max(abs(plain), 1e-2):
            raise SystemExit(f"the two sides differ: {key} is {plain} and {shared}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, side in sides.items():
            started = time.perf_counter()
            side.update(batch)
            seconds[name].append(time.perf_counter() - started)
    ratios = [p / s for p, s in zip(seconds["plain"], seconds["shared"], strict=True)]
    return {
        "prompt_tokens": len(batch.groups[0].prompt.ids),
        "response_tokens": list(LENGTHS),
        "plain_s": statistics.median(seconds["plain"]),
        "shared_s": statistics.median(seconds["shared"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "grad_norm": {name: first[name]["policy/grad_norm"] for name in sides},
    }


def main() -> None:
    """Print the table and write it to `benchmarks/results/update_vs_plain.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, choices=IMAGES, action="append", help="about so many prompt tokens")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "update_vs_plain.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    print("prompt tokens   plain s   shared s   ratio (median of interleaved repetitions)")
    rows = []
    for case in arguments.prompt or IMAGES:
        row = race(IMAGES[case], arguments.repetitions)
        rows.append(row)
        print(f"{row['prompt_tokens']:>13}   {row['plain_s']:>7.2f}   {row['shared_s']:>8.2f}   {row['ratio']:.2f}")
    parameters = sum(p.numel() for p in build_model(SIZES).parameters())
    result = {
        "parameters": parameters,
        "threads": arguments.threads,
        "repetitions": arguments.repetitions,
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"torch": torch.__version__, "transformers": version("transformers")},
        "cases": rows,
    }
    path = arguments.output
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
