"""Time and peak memory of `observe-r1 ladder build` by number of questions.

Each build is a process of its own: a tiny random model answers every question of the demo's world twice, in at most
eight tokens. Its answers are worthless: the benchmark asks whether memory grows by more than the questions' index.
The processes that grade have a bound of their own and are not counted.

    python benchmarks/ladder_memory.py          writes results/ladder_memory.json: minutes on two cores
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from observe_r1.demo.dataset import write_questions
from observe_r1.demo.tiny_model import make_tiny_model


def build(folder: Path, count: int) -> dict[str, Any]:
    """Build a ladder of `count` questions; return seconds and MiB."""
    write_questions(folder / "train", "train", seed=0, count=count)
    model = make_tiny_model(folder / "model")
    command = [sys.executable, "-m", "observe_r1.cli.main", "ladder", "build", str(folder / "train" / "train.jsonl")]
    command += ["--model", str(model), "--output", str(folder / "ladder")]
    command += ["--model.device", "cpu", "--run.threads", "1"]
    command += ["--rollout.group_size", "2", "--rollout.max_new_tokens", "8", "--arrange.min_complexity", "0"]
    started = time.perf_counter()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:  # not `ru_maxrss`, which counts what this process held when it started the other
            peak = max(peak, highest_memory(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit((folder / "log").read_text())
    journal = (folder / "ladder" / "measured.jsonl").read_text().splitlines()
    return {
        "questions": count,
        "measured": len(journal),
        "seconds": round(time.perf_counter() - started),
        "peak_mib": peak,
    }


def highest_memory(process: int) -> int:
    """Return the peak memory of a running process in MiB, or 0 once it has ended."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")), 0)


def main() -> None:
    """Print a line a build, and write the figures to `benchmarks/results/ladder_memory.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=(1_000, 5_000, 20_000), help="questions")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "ladder_memory.json")
    arguments = parser.parse_args()
    builds = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            builds.append(build(Path(folder), size))
        print(builds[-1], flush=True)
    result = {"builds": builds, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
