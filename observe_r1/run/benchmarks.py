"""Public benchmarks: lmms-eval's tasks ask, our engines answer as in any evaluation, and both judges score.

In the evaluation's folder, beside what `run.evaluate` writes:

benchmarks/questions.jsonl     what the tasks ask, in message format
benchmarks/asked.json          which tasks of which release of lmms-eval
1/lmms_eval.jsonl              its scores of the first model's greedy responses, one a row
lmms_eval.log                  what it printed
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from observe_r1.config import EvaluateSettings
from observe_r1.errors import UserError, how_to_install
from observe_r1.evaluation.figures import SUMMARY
from observe_r1.files import clear_unfinished, json_line, replacing, write_atomic
from observe_r1.ladder.difficulty import RESPONSE_COLUMNS
from observe_r1.ladder.questions import stage_rows
from observe_r1.ladder.stage import RESPONSES
from observe_r1.model.hub import hub_answers
from observe_r1.registry import nearest
from observe_r1.rewards.accuracy import labelled_gold
from observe_r1.rewards.judge.answer import final_answer
from observe_r1.rewards.judge.options import find_options, named_options
from observe_r1.run.evaluate import BENCHMARKS, LOG, evaluate, refuse_another_folder
from observe_r1.run.folder import CONFIG
from observe_r1.run.progress import Progress

RELEASE = "0.7.3"
"""Of lmms-eval: the one whose tasks these are."""
TASKS = {
    "mathvista": ("mathvista/reasoning/mathvista_testmini_cot.yaml",),
    "mathverse": ("mathverse/reasoning/mathverse_testmini.yaml",),
    "mathvision": ("mathvision/reasoning/mathvision_reason_test.yaml",),
    "mmmu": ("mmmu/reasoning/mmmu_val_reasoning.yaml",),
    "wemath": ("wemath/reasoning/wemath_testmini_thinking.yaml",),
    "logicvista": ("logicvista/reasoning/logicvista_thinking.yaml",),
    "olympiadbench": (
        "olympiadbench_mimo/reasoning/olympiadbench_math_en_reasoning.yaml",
        "olympiadbench_mimo/reasoning/olympiadbench_physics_en_reasoning.yaml",
    ),
}
"""Files of lmms-eval's reasoning tasks, by benchmark; docs/evaluation.md has their names."""
SCORES = "lmms_eval.jsonl"
_ALONE = {"OPENAI_API_KEY": "none", "OPENAI_API_URL": "http://127.0.0.1:9", "USE_LLM_JUDGE": "False"}
"""Environment of lmms-eval: the tasks want a key on import, and none of them is to ask another model."""


def evaluate_benchmarks(settings: EvaluateSettings, view: Progress) -> dict[str, Any] | None:
    """Evaluate on the benchmarks that `settings` name, the base model beside the trained one.

    Args:
        settings: Of the evaluation.
        view: As of `evaluate`.

    Returns:
        The summary of `evaluate`, and `lmms_eval`: its release and, for each model and benchmark, the mean of its
        scores under our extraction of the answer and under its own, and how many differ from ours. None if Ctrl-C
        ended it early.

    Raises:
        UserError: As `evaluate`; or a benchmark is unknown, lmms-eval is missing or refuses, or the base is not known.
    """
    folder = Path(settings.run.output)
    job = _job(settings)
    if not settings.model.against:
        base = _base_of(settings.model.path)
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"against": (base,)})})
    _write_questions(folder, job, view)
    questions = str(folder / BENCHMARKS / "questions.jsonl")
    data = settings.data.model_copy(update={"path": questions, "skip_bad": True})
    summary = evaluate(settings.model_copy(update={"data": data}), view)
    if summary is None:
        return None
    summary["lmms_eval"] = _scored(folder, job, 1 + len(settings.model.against), view)
    write_atomic(folder / SUMMARY, json_line(summary))
    return summary


def _job(settings: EvaluateSettings) -> dict[str, Any]:
    """Return what lmms-eval is to do; raise `UserError` for a benchmark that is not known, or given twice."""
    tasks: dict[str, Sequence[str]] = {}
    folders: dict[str, str] = {}
    for word in settings.benchmarks.names:
        name, colon, folder = word.partition(":")
        if name not in TASKS:
            raise UserError(
                f"--benchmarks: unknown benchmark {name!r}: known: {', '.join(TASKS)}{nearest(name, TASKS)}"
            )
        if name in tasks:
            raise UserError(f"--benchmarks: {name} is named twice")
        if colon and not Path(folder).expanduser().is_dir():
            raise UserError(f"--benchmarks {word}: there is no folder {folder!r}")
        tasks[name] = TASKS[name]
        if colon:
            folders[name] = str(Path(folder).expanduser().absolute())
    try:
        release = metadata.version("lmms-eval")
    except metadata.PackageNotFoundError as error:
        install = f"{how_to_install('benchmarks')}, then pip install --no-deps lmms-eval=={RELEASE}"
        raise UserError(f"--benchmarks needs lmms-eval, which is not installed: {install}") from error
    return {"tasks": tasks, "folders": folders, "limit": settings.benchmarks.limit, "release": release}


def _base_of(model: str) -> str:
    """Return the model that a run's model began with; raise `UserError` if that is not known."""
    config = Path(model).absolute().parent / CONFIG
    try:
        return str(yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["path"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"--benchmarks compares {model} with the model that its training began with, which is not known here:"
            " name it with --against"
        ) from error


def _write_questions(folder: Path, job: dict[str, Any], view: Progress) -> None:
    """Have the questions written, unless they are there; raise `UserError` if others are."""
    if folder.is_dir():
        clear_unfinished(folder)
    refuse_another_folder(folder)
    asked = folder / BENCHMARKS / "asked.json"
    if asked.is_file():
        if asked.read_text(encoding="utf-8") != json_line(job):
            raise UserError(
                f"--output {str(folder)!r}: holds other benchmarks, another limit or those of another release of"
                " lmms-eval: give another --output"
            )
        return
    view.now("lmms-eval loads the benchmarks")
    with replacing(folder / BENCHMARKS) as new:
        run_lmms_eval(job | {"do": "ask", "to": str(new)}, folder / LOG)
        write_atomic(new / "asked.json", json_line(job))


def _scored(folder: Path, job: dict[str, Any], models: int, view: Progress) -> dict[str, Any]:
    """Have the greedy responses scored; keep the scores beside them, and return what is said of each benchmark."""
    view.now("lmms-eval scores the responses")
    questions = {row["id"]: row for row in stage_rows(folder / BENCHMARKS / "questions.jsonl")}
    places = [folder / str(number) for number in range(1, models + 1)]
    given = [[*stage_rows(place / "greedy" / RESPONSES, RESPONSE_COLUMNS)] for place in places]
    with TemporaryDirectory() as beside:
        files: list[Path] = []
        for rows in given:
            ours = {row["id"]: extracted(row["text"], questions[row["id"]]) for row in rows}
            for responses in (ours, {row["id"]: row["text"] for row in rows}):
                files.append(Path(beside) / f"{len(files)}.json")
                files[-1].write_text(json.dumps(responses), encoding="utf-8")
        to = Path(beside) / "scores.json"
        run_lmms_eval(job | {"do": "score", "answers": [*map(str, files)], "to": str(to)}, folder / LOG)
        scored = json.loads(to.read_text(encoding="utf-8"))
    found = []
    for place, rows, ours, own in zip(places, given, scored[::2], scored[1::2], strict=True):
        both = [
            {"id": row["id"], "source": questions[row["id"]]["source"], "correct": row["correct"]}
            | {"our_extraction": ours[row["id"]], "own_extraction": own[row["id"]]}
            for row in rows
        ]
        write_atomic(place / SCORES, "".join(map(json_line, both)))
        found.append({name: _means([row for row in both if row["source"] == name]) for name in job["tasks"]})
    return {"release": job["release"], "models": found}


def extracted(response: str, question: dict[str, Any]) -> str:
    """Return the final answer alone, in answer tags; if it names one of the question's options, that letter.

    A response that was cut off before it answered has none, though numbers stand in its thought.
    """
    answer = final_answer(response)
    if any(tag in answer for tag in ("<observe>", "<think>")):
        answer = ""
    asked = "".join(part.get("text", "") for part in json.loads(question["message"])[-1]["content"])
    options = find_options(asked)
    if options and labelled_gold(asked, question["answer"]) != question["answer"]:  # no doubt what the options are
        *others, last = options.texts
        named = named_options(answer, replace(options, texts=[*others, last.partition("\n")[0].strip()]))
        answer = named.pop() if len(named) == 1 else answer
    return f"<answer>{answer}</answer>"


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"questions": len(rows)}
    for way in ("our_extraction", "own_extraction"):
        found[way] = mean(row[way] for row in rows) if rows else None
        found[f"{way}_differs"] = sum(row[way] != row["correct"] for row in rows)
    return found


def run_lmms_eval(job: dict[str, Any], log: Path) -> None:
    """Have lmms-eval do a job; raise `UserError` with its reason if the user can mend it."""
    command = [sys.executable, "-P", "-m", "observe_r1.evaluation.lmms"]
    offline = bool(set(job["tasks"]) - set(job["folders"])) and not hub_answers()
    alone = _ALONE | ({"HF_HUB_OFFLINE": "1"} if offline else {})  # else `datasets` asks again and again
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(  # noqa: S603 (our own module)
            command, env=os.environ | alone, input=json.dumps(job), text=True, stdout=out, stderr=subprocess.STDOUT
        )
    if done.returncode == -signal.SIGINT:
        raise KeyboardInterrupt  # Ctrl-C reaches every process of the terminal
    *_, last = ["", *log.read_text(encoding="utf-8", errors="replace").splitlines()]
    if done.returncode == 2 and last.startswith("error: "):
        why = "the Hugging Face Hub does not answer: " if offline else ""
        raise UserError(f"--benchmarks: {why}{last.removeprefix('error: ')}")
    if done.returncode:
        raise RuntimeError(f"lmms-eval ended with {done.returncode}: {log} has its traceback, which ends: {last}")
