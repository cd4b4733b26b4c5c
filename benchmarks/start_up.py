"""How long a command takes to begin: `--help` of every verb, and `observe-r1 train` to its first sampled token.

Every measurement is a fresh process, timed from outside until it ends: wall-clock seconds and CPU seconds. Training
takes the demo's tiny model, untrained, and its recipe, samples for its first 16 prompts and ends with their first
tokens. By then it has checked the settings, opened run folder and dataset, loaded the model and encoded prompts. It is
compared, interleaved, with the least that transformers needs for one token of the same model (imports, loading,
encoding one question, `generate`), and with transformers' imports alone.

    python benchmarks/start_up.py
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from observe_r1.cli.commands import COMMANDS
from observe_r1.cli.options import parse_settings
from observe_r1.cli.start import heavy_imports, starting
from observe_r1.config import TrainSettings

RECIPE = Path(__file__).parent.parent / "recipes" / "tiny" / "observe_r1.yaml"
PEER = """
from observe_r1.torch_compat import ensure_importable
ensure_importable()
import sys
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, picture = sys.argv[1:]
model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many objects are red?"}]}]
text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
inputs = processor(text=text, images=[Image.open(picture)], return_tensors="pt")
model.generate(**inputs, max_new_tokens=1)
"""
IMPORTS = """
from observe_r1.torch_compat import ensure_importable
ensure_importable()
from transformers import AutoModelForImageTextToText, AutoProcessor
"""


def sample_first_token(options: list[str]) -> None:
    """Train as the command line says, as the verb `train` does, and end the process after the first sampled tokens."""
    settings = parse_settings(TrainSettings, [str(RECIPE), *options], verb="train")
    view = starting("train")
    with heavy_imports():
        from observe_r1.rollout import embedded
        from observe_r1.run.train import train_model
    sample = embedded.next_tokens

    def first(*arguments: object) -> None:
        sample(*arguments)
        os._exit(0)

    embedded.next_tokens = first
    with view:
        train_model(settings, view)
    raise SystemExit("the run ended without a token")


def measure(command: list[str]) -> tuple[float, float]:
    """Run `command`; return its wall-clock and CPU seconds, without those of processes that it leaves behind."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command[:4]} failed: {process.stderr.read().decode()[-2000:]}")
    return seconds, used.ru_utime + used.ru_stime


def prepare(folder: Path) -> tuple[Path, Path]:
    """Write model and questions in a process of its own; return the model's folder and the questions' file."""
    code = (
        "import sys; from pathlib import Path; folder = Path(sys.argv[1])\n"
        "from observe_r1.demo.dataset import write_questions\n"
        "from observe_r1.demo.tiny_model import make_tiny_model\n"
        "make_tiny_model(folder / 'model'); write_questions(folder / 'train', 'train', seed=0, count=200)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    return folder / "model", folder / "train" / "train.jsonl"


def main() -> None:
    """Print the figures, and write them to `benchmarks/results/start_up.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "start_up.json")
    parser.add_argument("--first-token", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_token is not None:
        sample_first_token(arguments.first_token)
    with tempfile.TemporaryDirectory() as name:
        model, questions = prepare(Path(name))
        picture = next((questions.parent / "images").iterdir())
        verbs = ["", *COMMANDS]
        call = [sys.executable, "-m", "observe_r1.cli.main"]
        sides = {f"{verb} --help".strip(): [*call, *verb.split(), "--help"] for verb in verbs}
        train = ["--model.path", str(model), "--data.path", str(questions), "--run.output"]
        sides["first token"] = [sys.executable, __file__, "--first-token", *train]
        sides["transformers"] = [sys.executable, "-c", PEER, str(model), str(picture)]
        sides["imports"] = [sys.executable, "-c", IMPORTS]
        times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for repetition in range(arguments.repetitions + 1):
            for side, command in sides.items():
                output = [f"{name}/run{repetition}"] if side == "first token" else []
                times[side].append(measure([*command, *output]))
    figures = {}
    for side, measured in times.items():
        clock, cpu = zip(*measured[1:], strict=True)  # the first repetition filled the disk's cache
        figures[side] = {"seconds": round(statistics.median(clock), 3), "cpu": round(statistics.median(cpu), 3)}
        print(f"{side:>20}: {figures[side]['seconds']:6.2f} s, {figures[side]['cpu']:6.2f} s of CPU")
    pairs = zip(times["first token"][1:], times["transformers"][1:], strict=True)
    ratios = [(ours[0] / theirs[0], ours[1] / theirs[1]) for ours, theirs in pairs]
    clock, cpu = (round(statistics.median(ratio), 3) for ratio in zip(*ratios, strict=True))
    print(f"first token against transformers: {clock:.2f} by the clock, {cpu:.2f} of CPU")
    result = {
        "repetitions": arguments.repetitions,
        "figures": figures,
        "first token / transformers": {"seconds": clock, "cpu": cpu},
        "load_average": round(os.getloadavg()[1], 1),
        "versions": {name: version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
