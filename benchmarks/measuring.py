"""What measuring adds to sampling: the time of `ladder measure` against the engine's alone, for the same responses.

Both sides sample with the same untrained Qwen2.5-VL of about 25 M parameters. The engine alone is given encoded
prompts, batch by batch. Measuring also reads and encodes the questions, grades every response, and writes figures and
responses to disk, synced after every batch. Repetitions are interleaved, and the ratio is that of their medians.
Responses are as long as they may be (no end-of-turn token), so that both sides sample the same tokens. They are babble,
the most expensive text to grade: without an answer between tags, all of it is searched. Loading is not timed.

    python benchmarks/measuring.py
"""

import argparse
import json
import platform
import statistics
import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from racing.models import SMALL
from racing.timing import interleave

from observe_r1.config import LadderSettings
from observe_r1.demo.dataset import write_questions
from observe_r1.demo.tiny_model import make_tiny_model
from observe_r1.ladder import building
from observe_r1.ladder.difficulty import measure_questions
from observe_r1.ladder.inference import Encoder, load_engine, random_stream
from observe_r1.ladder.journal import start_over
from observe_r1.ladder.questions import read_questions
from observe_r1.ladder.stage import MEASURE, Watch
from observe_r1.records import Prompt, Sampling
from observe_r1.rollout.embedded import EmbeddedEngine


def prepare(folder: Path, arguments: argparse.Namespace) -> LadderSettings:
    """Write model and questions, and screen them."""
    make_tiny_model(folder / "model", sizes=SMALL)
    write_questions(folder / "train", "train", seed=0, count=arguments.questions)
    values = {
        "data": {"sources": [str(folder / "train" / "train.jsonl")], "format_prompt": "observe"},
        "model": {"path": str(folder / "model"), "device": arguments.device},
        "rollout": {"max_new_tokens": arguments.tokens, "batch": arguments.batch, "group_size": arguments.group_size},
        "run": {"output": str(folder / "ladder")},
    }
    settings = LadderSettings.model_validate(values)
    (folder / "ladder").mkdir()
    building.screen(folder / "ladder", settings, Watch(), load_engine)
    return settings


def main() -> None:
    """Print the figures, and write them to `benchmarks/results/measuring.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "measuring.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        settings = prepare(Path(name), arguments)
        folder, rollout = Path(name) / "ladder", settings.rollout
        assert settings.model.path
        loaded = stack.enter_context(load_engine(settings.model.path, settings))
        engine, encode = cast(tuple[EmbeddedEngine, Encoder[Prompt]], loaded)
        engine.vlm = replace(engine.vlm, stop_ids=())
        examples = read_questions(folder / "screened.jsonl")
        prompts = [encode(e, settings=settings.data, stream=random_stream(e)) for e in examples]
        sampling = Sampling(n=rollout.group_size, max_new_tokens=rollout.max_new_tokens)

        def alone() -> None:
            for start in range(0, len(prompts), rollout.batch):
                engine.generate(prompts[start : start + rollout.batch], sampling)

        def with_measuring() -> None:
            start_over(folder, [MEASURE])
            measure_questions(folder, examples, settings, Watch(), lambda path, settings: nullcontext((engine, encode)))

        alone(), with_measuring()  # once to warm up
        times = interleave({"engine": alone, "measure": with_measuring}, arguments.repetitions)
    medians = {side: statistics.median(values) for side, values in times.items()}
    result = {
        "questions": len(prompts),
        **{name: getattr(arguments, name) for name in ("group_size", "tokens", "batch", "threads", "device")},
        "seconds": {side: [round(value, 3) for value in values] for side, values in times.items()},
        "added": round(medians["measure"] / medians["engine"] - 1, 4),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
    }
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"engine alone {medians['engine']:.2f} s, measuring {medians['measure']:.2f} s: {result['added']:+.1%}")


if __name__ == "__main__":
    main()
