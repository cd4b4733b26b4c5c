"""How often judges err: wrong answers that score, right ones that do not, and how long an answer takes.

The labelled answers are in tests/: users of similar trainers reported those in `judge_cases.jsonl`, and those in
`judge_own.jsonl` were written to mislead this judge. Ours is compared with math-verify as TRL calls it, with EasyR1's
mathruler (`pip install mathruler pylatexenc`) and with comparing the texts. A time is the median over all answers, and
of `--repeat` interleaved rounds the median again. Ours needs no worker process for any of them.

    python benchmarks/judging.py
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from observe_r1.rewards import accuracy_reward
from observe_r1.rewards.judge.answer import final_answer
from observe_r1.rewards.judge.reading import read

ROOT = Path(__file__).parent.parent
FILES = ("judge_cases.jsonl", "judge_own.jsonl")
Judge = Callable[[str, str], float | None]


def ours(response: str, gold: str) -> float:
    """Judge an answer that the run has not seen before: nothing is cached."""
    read.cache_clear()
    return accuracy_reward(response, gold)


def exact(response: str, gold: str) -> float:
    """Compare the texts of the final answers."""
    return float(final_answer(response) == final_answer(gold))


def judges() -> dict[str, Judge]:
    """Return the installed judges by name."""
    found: dict[str, Judge] = {"ours": ours}
    try:
        from trl.rewards import accuracy_reward as trl_reward

        found["math-verify in TRL"] = lambda response, gold: trl_reward([[{"content": response}]], [gold])[0]
        found["math-verify in TRL, boxed"] = lambda response, gold: trl_reward(
            [[{"content": f"\\boxed{{{final_answer(response)}}}"}]], [f"${final_answer(gold)}$"]
        )[0]
    except ImportError:
        print("trl is not installed: pip install -e '.[test]'")
    try:
        from mathruler.grader import grade_answer

        found["mathruler"] = lambda response, gold: float(grade_answer(final_answer(response), final_answer(gold)))
    except ImportError:
        print("mathruler is not installed: pip install mathruler pylatexenc")
    return found | {"exact match": exact}


def measure(judge: Judge, cases: list[dict[str, Any]]) -> dict[str, float]:
    """Return a judge's errors over labelled cases, and the median microseconds of an answer."""
    wrong = missed = raised = 0
    seconds = []
    for case in cases:
        started = time.perf_counter()
        try:
            right = bool(judge(case["response"], case["gold"]))
        except Exception:  # noqa: BLE001  (a peer that raises is counted, not trusted)
            right, raised = False, raised + 1
        seconds.append(time.perf_counter() - started)
        wrong += right and not case["right"]
        missed += case["right"] and not right
    median = statistics.median(seconds) * 1e6
    return {"wrong_scored": wrong, "right_missed": missed, "raised": raised, "microseconds": median}


def main() -> None:
    """Measure every judge on every file and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "judging.json")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"python": platform.python_version(), "files": {}}
    for name in FILES:
        cases = [json.loads(line) for line in (ROOT / "tests" / name).read_text("utf-8").splitlines()]
        right = sum(case["right"] for case in cases)
        print(f"{name}: {right} right, {len(cases) - right} wrong")
        rounds: dict[str, list[dict[str, float]]] = {}
        for _ in range(arguments.repeat):
            for judge_name, judge in judges().items():
                rounds.setdefault(judge_name, []).append(measure(judge, cases))
        table = {}
        for judge_name, measured in rounds.items():
            median = statistics.median(each["microseconds"] for each in measured)
            table[judge_name] = measured[0] | {"microseconds": round(median, 1)}
            scored, missed = measured[0]["wrong_scored"], measured[0]["right_missed"]
            print(f"  {judge_name:<26} wrong scored {scored:4}  right missed {missed:4}  {median:8.0f} µs an answer")
        results["files"][name] = {"right": right, "wrong": len(cases) - right, "judges": table}
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
