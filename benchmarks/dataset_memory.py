"""Peak memory of a fresh process that opens a dataset and reads 200 rows at random places.

Every case runs in a process of its own. The process loads the dataset as the trainer does, reads the rows and reports
its peak resident memory (`VmHWM`) and, as `private`, what it holds at the end without pages of files (`RssAnon`): the
kernel takes those back when it needs them. `imports` is the same process without a dataset. A Parquet file is one row
group, the worst case, and is opened for the first time, its conversion to Arrow included. `mixed` interleaves JSON
lines with a second such file of half the rows, `random` draws from JSON lines in the shuffled order.

    python benchmarks/dataset_memory.py
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from observe_r1.config import DataSettings
from observe_r1.data import load_data
from observe_r1.registry import load

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROWS_READ = 200
FIGURES = {"peak_mib": "VmHWM", "private_mib": "RssAnon"}
CASES = ("json", "jsonl", "parquet", "mixed", "random")


def make_rows(count: int) -> Iterator[dict[str, Any]]:
    """Yield questions of about 200 bytes; `message` is a string, as in the message format."""
    for number in range(count):
        content = [{"type": "image", "image": f"images/{number}.png"}, {"type": "text", "text": "How many are red?"}]
        message = json.dumps([{"role": "user", "content": content}])
        yield {"id": f"q{number}", "message": message, "answer": str(number % 10)}


def write_json(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number, row in enumerate(make_rows(count)):
            file.write(("[\n" if number == 0 else ",\n") + json.dumps(row))
        file.write("\n]\n")


def write_jsonl(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in make_rows(count))


def write_parquet(path: Path, count: int) -> None:
    table = pyarrow.Table.from_pylist(list(make_rows(count)))
    pyarrow.parquet.write_table(table, path, row_group_size=count)


def write_case(case: str, folder: Path, count: int) -> list[str]:
    """Write the files of one case and return the settings that open them."""
    if case in ("json", "parquet"):
        path = folder / f"rows.{case}"
        {"json": write_json, "parquet": write_parquet}[case](path, count)
        return [f"path={path}"]
    path = folder / "rows.jsonl"
    write_jsonl(path, count)
    if case != "mixed":
        return [f"path={path}", "order=random" if case == "random" else "order=ladder"]
    half = folder / "half.jsonl"
    write_jsonl(half, count // 2)
    return [f"path={path},{half}", "probs=0.7,0.3"]


def read_rows(options: list[str]) -> None:
    """Open the dataset, read rows, and print peak and private memory in MiB: the process that is measured."""
    values: dict[str, Any] = dict(option.split("=", 1) for option in options)
    if values:
        if "probs" in values:
            values["probs"] = values["probs"].split(",")
        settings = DataSettings(**values)
        examples = load_data(settings, seed=0)
        if settings.order == "random":
            order = load("order", "random")(settings, len(examples), 0)
            places = [order.next() for _ in range(ROWS_READ)]
        else:
            places = random.Random(0).choices(range(len(examples)), k=ROWS_READ)
        for place in places:
            if examples[place].answer not in "0123456789":
                raise SystemExit(f"row {place} reads wrong: {examples[place]}")
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({name: int(status[key].split()[0]) / 1024 for name, key in FIGURES.items()}))


def measure(options: list[str], folder: Path) -> dict[str, float]:
    """Run `read_rows` in a process of its own and return what it prints."""
    command = [sys.executable, __file__, "--read", *options]
    environment = os.environ | {"HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)


def main() -> None:
    """Print the table and write it to `benchmarks/results/dataset_memory.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "dataset_memory.json")
    parser.add_argument("--read", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read is not None:
        read_rows(arguments.read)
        return
    with tempfile.TemporaryDirectory() as folder:
        imports = measure([], Path(folder))
    print(f"imports alone: {_shown(imports)}; MiB at the peak (private at the end) by rows:")
    print(f"{'':>8}" + "".join(f"{size:>14,}" for size in arguments.sizes))
    memory: dict[str, dict[int, dict[str, float]]] = {}
    for case in CASES:
        memory[case] = {}
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory() as folder:
                memory[case][size] = measure(write_case(case, Path(folder), size), Path(folder))
        print(f"{case:>8}" + "".join(f"{_shown(figures):>14}" for figures in memory[case].values()))
    result = {
        "rows_read": ROWS_READ,
        "imports": imports,
        "cases": memory,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "datasets": datasets.__version__,
            "pyarrow": pyarrow.__version__,
        },
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {arguments.output}")


def _shown(figures: dict[str, float]) -> str:
    return f"{figures['peak_mib']:.0f} ({figures['private_mib']:.0f})"


if __name__ == "__main__":
    main()
