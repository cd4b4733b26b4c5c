"""lmms-eval's side of `evaluate --benchmarks`: what its tasks ask, and how they score what our engines answered.

Runs as a process of its own, `python -m observe_r1.evaluation.lmms`: lmms-eval replaces loggers, file locks and time
limits of the process that imports it. Only its tasks and its evaluator are used, none of its models; of the fifty
packages that it names, the extra `benchmarks` has those that these import. The job comes as JSON on stdin:

    {"do": "ask", "tasks": {"mathvista": ["mathvista/…/x.yaml"]}, "folders": {…}, "limit": 100, "to": FOLDER}
    {"do": "score", …, "answers": [FILE of responses by question, …], "to": FILE}
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from observe_r1.errors import UserError
from observe_r1.torch_compat import ensure_importable

ensure_importable()

import lmms_eval.tasks  # noqa: E402
from datasets.exceptions import DatasetsError  # noqa: E402
from lmms_eval.api.model import lmms  # noqa: E402
from lmms_eval.api.task import ConfigurableMessagesTask  # noqa: E402
from lmms_eval.evaluator import simple_evaluate  # noqa: E402
from lmms_eval.utils import load_yaml_config  # noqa: E402
from tenacity import RetryError, stop_after_attempt  # noqa: E402

ACCURACY = "acc_score"
"""What the reasoning tasks call a sample's score: 1 or 0."""


class Answered(lmms):
    """A model whose responses are there already; a question without one gets an empty response."""

    is_simple = False

    def __init__(self, responses: Mapping[str, str]) -> None:
        super().__init__()
        self._responses = responses

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the response to each request."""
        return [self._responses.get(question_id(task, doc), "") for *_, doc, task, _ in (r.args for r in requests)]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: no task here has rounds."""
        raise NotImplementedError

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuse: no task here compares likelihoods."""
        raise NotImplementedError


def question_id(task: str, doc: int) -> str:
    """Return the id of a question: its task's name and its number in the task's split."""
    return f"{task}/{doc}"


def ask(job: Mapping[str, Any]) -> None:
    """Write what the tasks ask to `questions.jsonl` in the folder `to`, in message format, with the images beside it.

    The text and the place of each image are the task's own; its system prompt, which asks for lmms-eval's response
    format, is left out.
    """
    folder = Path(job["to"])
    (folder / "images").mkdir()
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for benchmark, task in _tasks(job):
            docs = task.test_docs()
            for number in range(min(len(docs), job["limit"] or len(docs))):
                doc = docs[number]
                turns = [turn for turn in task.doc_to_messages(doc) if turn["role"] != "system"]
                row = {
                    "id": question_id(task.config.task, number),
                    "message": json.dumps([_turn(turn, folder) for turn in turns]),
                    "answer": gold(benchmark, doc),
                    "source": benchmark,
                }
                file.write(json.dumps(row) + "\n")


def gold(benchmark: str, doc: Mapping[str, Any]) -> str:
    """Return what the task compares a response with: what its `process_results` gives to `compute_score`."""
    if benchmark == "mathvista" and doc["choices"] and doc["question_type"] == "multi_choice":
        return "ABCDEFGH"[doc["choices"].index(doc["answer"])]
    if benchmark == "olympiadbench":
        return str(doc["final_answer"][0]) if doc["final_answer"] else ""
    return str(doc["answer"])


def score(job: Mapping[str, Any]) -> None:
    """Let lmms-eval score the responses in each of the `answers`; its scores, by question, go to the file `to`."""
    found = [_scored(job, json.loads(Path(path).read_text(encoding="utf-8"))) for path in job["answers"]]
    Path(job["to"]).write_text(json.dumps(found), encoding="utf-8")


def _scored(job: Mapping[str, Any], responses: Mapping[str, str]) -> dict[str, float]:
    found = simple_evaluate(
        model=Answered(responses),
        tasks=[task for _, task in _tasks(job)],
        task_manager=lmms_eval.tasks.TaskManager(include_defaults=False),  # the tasks are there: nothing to look for
        limit=job["limit"],
        bootstrap_iters=0,
        process_docs_parallel=1,  # in other threads Math-Verify cannot set its timer, and finds nothing equal
    )
    scores = {
        question_id(name, sample["doc_id"]): float(sample[ACCURACY])
        for name, samples in found["samples"].items()
        for sample in samples
    }
    return {name: scores[name] for name in responses}


def _tasks(job: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each benchmark's tasks with their data loaded; raise `UserError` if there is no task or no data."""
    home = Path(lmms_eval.tasks.__file__).parent
    for benchmark, files in job["tasks"].items():
        for file in files:
            if not (home / file).is_file():
                raise UserError(f"{benchmark}: lmms-eval {version('lmms-eval')} has no task {file}")
            config = load_yaml_config(str(home / file), mode="full")
            config.pop("dataset_kwargs", None)  # `token: True`: these are public, and nobody has to be logged in
            # We-Math's own two figures divide by the composite problems that are solved, and fail if there are none.
            config["metric_list"] = [each for each in config["metric_list"] if each["metric"] == ACCURACY]
            if folder := job["folders"].get(benchmark):
                # In the usual place `datasets` would take another version of the folder for this one.
                config |= {"dataset_path": folder, "dataset_kwargs": {"cache_dir": job["cache"]}}
            yield benchmark, _loaded(benchmark, config)


def _loaded(benchmark: str, config: dict[str, Any]) -> Any:
    place = config["dataset_path"]
    copy = "" if Path(place).is_absolute() else f"; {benchmark}:FOLDER reads a copy of {place}"
    ConfigurableMessagesTask.download.retry.stop = stop_after_attempt(1)  # `datasets` tries again if that may help
    try:
        return ConfigurableMessagesTask(config=config)
    except RetryError as error:
        reason = error.last_attempt.exception()
        if not isinstance(reason, OSError | ValueError | RuntimeError | DatasetsError):
            raise
        words = " ".join(str(reason.__cause__ or reason).split())
        raise UserError(f"{benchmark}: {place}: its data cannot be read: {words}{copy}") from error


def _turn(turn: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    parts = []
    for part in turn["content"]:
        if part["type"] == "image":
            parts.append({"type": "image", "image": _saved(part["url"], folder)})
        elif part["text"].strip():
            parts.append({"type": "text", "text": part["text"]})
    return {"role": turn["role"], "content": parts}


def _saved(image: Any, folder: Path) -> str:
    """Save an image once, however many questions show it; return its path in `folder`."""
    name = f"images/{sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:32]}.png"
    if not (folder / name).exists():
        image.save(folder / name)
    return name


def main() -> int:
    """Do the job; a `UserError` is one line on stderr after `error: `, and exit code 2."""
    job = json.load(sys.stdin)
    to = Path(job["to"])
    try:
        with TemporaryDirectory(dir=to if to.is_dir() else to.parent) as cache:
            {"ask": ask, "score": score}[job["do"]](job | {"cache": cache})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
