"""What an update takes: seconds and memory against responses per prompt, prompt length and vocabulary.

Each point is a process of its own that takes optimizer steps on one group: the benchmarks' small Qwen2.5-VL, float32,
image tower trained, G responses of 175 tokens to a prompt with one image. *Activations* are the process's
peak memory beyond weights, gradients and optimizer states (16 bytes a parameter).

    python benchmarks/scaling.py            writes results/scaling.json, docs/scaling.png and docs/scaling_dark.png
    python benchmarks/scaling.py --redraw   draws the images from the last results
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from racing.models import SMALL, VOCABULARY, make_model
from racing.our_side import given_batch
from racing.set_up import our_side, questions
from racing.timing import seconds

from observe_r1.report.theme import Theme, on_both_papers

HERE = Path(__file__).parent
VOCABULARIES = (486, 8192, 32768, 65536, VOCABULARY)
SWEEPS: tuple[tuple[str, dict[str, int], tuple[int, ...]], ...] = (
    ("group", {"side": 28, "vocabulary": 486}, (1, 2, 4, 8, 16, 32)),
    ("side", {"group": 8, "vocabulary": 486}, (8, 16, 28, 40, 52, 64)),
    ("vocabulary", {"group": 32, "side": 28}, VOCABULARIES),
    ("vocabulary", {"group": 8, "side": 28}, VOCABULARIES),
)
"""What varies, what stays the same, and the values of what varies. `side` is the image's, in patches."""
COLUMNS = {
    "group": ("responses per prompt", "responses per prompt"),
    "side": ("prompt length", "prompt length (tokens, image included)"),
    "vocabulary": ("vocabulary", "vocabulary (tokens)"),
}
"""What each column of the image varies, and the name of its axis."""
ROWS = (("seconds", "Time", "seconds per update"), ("activations_mib", "Memory", "activations (MiB)"))
"""What each row of the image shows, and the name of its axis."""
RESPONSE = 175
MIB = 2**20


def measure(group: int, side: int, vocabulary: int, repetitions: int) -> dict[str, Any]:
    """Measure one point in this process."""
    with tempfile.TemporaryDirectory() as name:
        model = make_model(Path(name) / "model", SMALL, vocabulary=vocabulary)
        with (
            questions(model, (side, side), prompts=1, group_size=max(2, group)) as (settings, examples),
            our_side(settings, examples, placeholders=True) as ours,
        ):
            responses = list(torch.randint(10, 480, (group, RESPONSE), generator=torch.Generator().manual_seed(0)))
            batch = given_batch(ours.prompts, responses, torch.linspace(-1, 1.5, group)[None])
            before = _memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading
            taken = [seconds(lambda: ours.update(batch)) for _ in range(repetitions + 1)]
            states = 12 * sum(p.numel() for p in ours.policy.parameters) / MIB
            prompt = len(ours.prompts[0].ids)
    return {
        "group": group,
        "prompt": prompt,
        "vocabulary": vocabulary,
        "seconds": round(statistics.median(taken[1:]), 3),
        "activations_mib": round(_memory("VmHWM") - before - states),
    }


def _memory(field: str) -> float:
    """Return the MiB that this process holds (`VmRSS`) or its peak (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def sweep(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every point in a process of its own."""
    sweeps = []
    for name, others, values in SWEEPS:
        sweeps.append({"varies": name, "points": []})
        for value in values:
            point = json.dumps({**others, name: value, "repetitions": arguments.repetitions})
            command = [sys.executable, __file__, "--point", point, "--threads", str(arguments.threads)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            sweeps[-1]["points"].append(json.loads(output.splitlines()[-1]))
            print(name, sweeps[-1]["points"][-1], flush=True)
    return sweeps


def draw(result: dict[str, Any], picture: Path) -> None:
    """Draw seconds above and activations below, each against what varies, as a light and a dark PNG."""
    for path, theme in on_both_papers(picture):
        figure = Figure(figsize=(11.5, 7.4), layout=ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14))
        for column, (name, (title, label)) in zip(figure.subplots(2, 3).T, COLUMNS.items(), strict=True):
            for axes, (field, what, unit) in zip(column, ROWS, strict=True):
                _panel(
                    axes, [each["points"] for each in result["sweeps"] if each["varies"] == name], name, field, theme
                )
                axes.set_title(f"{what} by {title}", pad=34)
                axes.set(xlabel=label, ylabel=unit)
        place = f"{result['threads']} threads of a CPU, float32, {result['response_tokens']} tokens per response"
        figure.suptitle(f"What one update of one group takes ({place})", x=0.012, ha="left")
        figure.savefig(path, dpi=120, metadata={"Software": None})


def _panel(axes: Any, sweeps: list[list[dict[str, Any]]], name: str, field: str, theme: Theme) -> None:
    for points, color, marker in zip(sweeps, (theme.first, theme.second), "os", strict=False):
        across = [point["prompt" if name == "side" else name] for point in points]
        same = points[0]
        fixed = {"group": f"{same['group']} responses", "side": f"prompt of {same['prompt']:,} tokens"}
        fixed["vocabulary"] = f"vocabulary of {same['vocabulary']:,}"
        label = (", " if len(sweeps) > 1 else ",\n").join(fixed[other] for other in fixed if other != name)
        look = {"marker": marker, "color": color, "label": label, "clip_on": False, "zorder": 3}
        axes.plot(across, [point[field] for point in points], **look)
    axes.grid(visible=True, axis="both")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.xaxis.set_major_formatter("{x:,.10g}")
    if name == "vocabulary":
        axes.set_xticks([0, 50_000, 100_000, 150_000])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, borderpad=0, labelspacing=0.2, fontsize=8.5)


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "scaling.json")
    parser.add_argument("--picture", type=Path, default=HERE.parent / "docs" / "scaling.png")
    parser.add_argument("--redraw", action="store_true", help="draw what was measured, and measure nothing")
    arguments = parser.parse_args()
    if arguments.redraw:
        draw(json.loads(arguments.output.read_text()), arguments.picture)
        return
    torch.set_num_threads(arguments.threads)
    if arguments.point:
        print(json.dumps(measure(**arguments.point)))
        return
    result = {
        "threads": arguments.threads,
        "repetitions": arguments.repetitions,
        "response_tokens": RESPONSE,
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "sweeps": sweep(arguments),
    }
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    draw(result, arguments.picture)
    print(f"wrote {arguments.output} and {arguments.picture}")


if __name__ == "__main__":
    main()
