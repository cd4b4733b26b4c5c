"""`evaluate --benchmarks`: lmms-eval runs its tasks on questions of the world, in the benchmarks' layouts."""

import json
from importlib import metadata
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, Features, Image, List, Value, get_dataset_config_names

from observe_r1.cli.main import main
from observe_r1.demo.dataset import make_item
from observe_r1.demo.scene import render
from observe_r1.rewards.accuracy import accuracy_reward, labelled_gold
from observe_r1.run.benchmarks import RELEASE, TASKS, extracted, run_lmms_eval

LETTERS = "ABCD"
STEPS = ("2steps_1", "2steps_2", "2steps_multi", "3steps_1", "3steps_2", "3steps_3", "3steps_multi")


class World:
    """One question of the world, with options."""

    def __init__(self, index):
        item = make_item("held_out", 0, index, level=1 + index % 2)
        self.question, self.answer = item.question.text, item.answer
        place = index // 3 % 4
        self.options = [str(int(item.answer) + (number - place) % 4) for number in range(4)]
        self.letter = LETTERS[place]
        with BytesIO() as file:
            render(item.scene).save(file, "PNG")
            self.image = {"bytes": file.getvalue(), "path": None}
        self.labelled = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, self.options, strict=True))


def mathvista(n, w):
    """Every third question offers options: the model has seen none."""
    chosen = {"choices": w.options, "question_type": "multi_choice", "answer_type": "text"}
    free = {"choices": None, "question_type": "free_form", "answer_type": "integer"}
    about = {"pid": str(n), "question": w.question, "unit": None, "precision": None, "answer": w.answer, "query": ""}
    return about | (free if n % 3 else chosen) | {"decoded_image": w.image}


def mathverse(n, w):
    asked = f"{w.question} Choices: {w.labelled}"
    kind = {"question_type": "multi-choice", "problem_version": "Vision Intensive", "query_cot": ""}
    return {"question": asked, "query_wo": asked, "answer": w.letter, "image": w.image} | kind


def mathvision(n, w):
    free = {"options": [], "answer": w.answer}
    return {"question": w.question, "decoded_image": w.image} | (
        free if n % 2 else {"options": w.options, "answer": w.letter}
    )


def mmmu(n, w):
    """One question shows its image first, the other in its midst; one lists options."""
    question = f"<image 1> {w.question}" if n % 2 else f"Look: <image 1> {w.question}"
    chosen = {"question_type": "multiple-choice", "options": str(w.options), "answer": w.letter}
    free = {"question_type": "open", "options": "[]", "answer": w.answer}
    return {"id": f"validation_Math_{n}", "question": question, "image_1": w.image} | (chosen if n % 2 else free)


def wemath(n, w):
    about = {"ID": str(n), "split": "testmini", "knowledge concept": "counting", "question number": str(n // 7)}
    asked = {"question": w.question, "option": "; ".join(f"{a}. {o}" for a, o in zip(LETTERS, w.options, strict=True))}
    told = {"answer": w.letter, "key": STEPS[n % 7], "knowledge concept description": ""}
    return about | asked | told | {"image_path": w.image}


def logicvista(n, w):
    return {"question": f"{w.question} Options: {w.labelled}", "answer": w.letter, "image": w.image}


def olympiadbench(n, w):
    about = {"subfield": "Combinatorics", "is_multiple_answer": False, "answer_type": "Numerical"}
    images = {"image_1": w.image} | {f"image_{place}": None for place in range(2, 6)}
    return {"question": w.question, "language": "English", "final_answer": [w.answer]} | about | images


LAYOUTS = {
    "mathvista": (mathvista, 12, [("default", "testmini")]),
    "mathverse": (mathverse, 2, [("testmini", "testmini")]),
    "mathvision": (mathvision, 2, [("default", "test")]),
    "mmmu": (mmmu, 2, [("default", "validation")]),
    "wemath": (wemath, 7, [("default", "testmini")]),
    "logicvista": (logicvista, 2, [("default", "test")]),
    "olympiadbench": (olympiadbench, 2, [("maths_en_all", "test"), ("physics_en_all", "test")]),
}
"""Of each benchmark: a row, how many, and the configurations with their split."""
COUNT = sum(count * len(configs) for _, count, configs in LAYOUTS.values())
_IMAGES = {"image", "decoded_image", "image_path", *(f"image_{place}" for place in range(1, 6))}


def write_repository(folder, layout, count, configs):
    """Write a benchmark's rows as its repository on the Hub has them: Parquet files, and a card that names them."""
    rows = [layout(number, World(number)) for number in range(count)]
    kinds = {name: Image() if name in _IMAGES else kind_of(value) for name, value in rows[0].items()}
    listed = []
    for config, split in configs:
        (folder / config).mkdir(parents=True)
        path = f"{config}/{split}-00000-of-00001.parquet"
        Dataset.from_list(rows, Features(kinds)).to_parquet(folder / path)
        listed.append({"config_name": config, "data_files": [{"split": split, "path": path}]})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': listed})}---\n")
    assert get_dataset_config_names(str(folder)) == [config for config, _ in configs]


def kind_of(value):
    return List(Value("string")) if isinstance(value, list) else Value("bool" if isinstance(value, bool) else "string")


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    for name, layout in LAYOUTS.items():
        write_repository(folder / name, *layout)
    return ",".join(f"{name}:{folder / name}" for name in LAYOUTS)


def words(world, names, output, *more):
    fast = ["--rollout.max_new_tokens", "40", "--run.threads", "1"]
    return ["evaluate", str(world / "warm" / "model"), "--benchmarks", names, "--output", str(output), *fast, *more]


@pytest.fixture(scope="module")
def evaluated(world, names, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated") / "evaluation"
    assert main(words(world, names, output)) == 0
    return output


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lmms_eval_scores_every_sample_as_we_do_under_our_extraction(evaluated, world):
    summary = json.loads((evaluated / "summary.json").read_text())
    assert [model["model"] for model in summary["models"]] == [str(world / "warm" / "model"), str(world / "tiny")]
    assert summary["lmms_eval"]["release"] == RELEASE
    for number, model in enumerate(summary["models"], start=1):
        ours = {row["id"]: row["correct"] for row in rows(evaluated / str(number) / "greedy" / "responses.jsonl")}
        theirs = {row["id"]: row["our_extraction"] for row in rows(evaluated / str(number) / "lmms_eval.jsonl")}
        assert len(theirs) == model["questions"] == COUNT
        assert theirs == ours
    assert 0 < sum(row["our_extraction"] for row in rows(evaluated / "1" / "lmms_eval.jsonl")) < COUNT
    (lead,) = summary["differences"]
    assert lead["by"]["source"].keys() == LAYOUTS.keys()


# In each of the first 12 questions of MathVista's layout: a response ({gold}: the answer; {more}: one more than it),
# whether we take it for right, lmms-eval's score under our extraction, and its score under its own.
RESPONSES = {
    0: ("<answer> {gold} </answer>", 1, 1, 0),  # the text of an option, not its letter
    3: ("The answer is ({letter}).", 1, 1, 0),  # without tags it looks for a number only
    6: ("<answer> Answer: {letter} </answer>", 1, 1, 0),  # it takes the A of "Answer"
    9: ("<answer> {letter}. {gold} </answer>", 1, 1, 1),
    1: ("<answer> {more} </answer> No: <answer> {gold} </answer>", 1, 1, 0),  # it takes the first pair, we the last
    2: ("<answer> {gold} </answer> No: <answer> {more} </answer>", 0, 0, 1),
    4: ("<observe> … </observe> <think> there are {gold}", 0, 0, 1),  # cut off: it takes a number at a line's end
    5: ("There are {gold} objects.", 1, 1, 0),
    7: ("<answer> \\frac{{{gold}0}}{{10}} </answer>", 1, 1, 1),  # Math-Verify, which works in the main thread alone
    8: ("So \\boxed{{{gold}}}", 1, 1, 1),
    10: ("<answer> {word} </answer>", 1, 0, 0),  # judged otherwise, not extracted otherwise
    11: ("", 0, 0, 0),
}


def test_extractions_differ_where_the_documentation_says(evaluated, names, tmp_path):
    questions = {row["id"]: row for row in rows(evaluated / "benchmarks" / "questions.jsonl")}
    gold = {name: f"<answer>{row['answer']}</answer>" for name, row in questions.items()}
    ours, own, expected = {}, {}, {}
    for number, (text, *scores) in RESPONSES.items():
        name, world = f"mathvista_testmini_cot_reasoning/{number}", World(number)
        said = {"gold": world.answer, "more": int(world.answer) + 1, "letter": world.letter}
        own[name] = text.format(**said, word=["zero", "one", "two"][int(world.answer)])
        ours[name], expected[name] = extracted(own[name], questions[name]), scores
    files = [tmp_path / "gold.json", tmp_path / "ours.json", tmp_path / "own.json"]
    for file, responses in zip(files, (gold, ours, own), strict=True):
        file.write_text(json.dumps(responses))
    job = json.loads((evaluated / "benchmarks" / "asked.json").read_text())
    scored = {"do": "score", "answers": [*map(str, files)], "to": str(tmp_path / "scores.json")}
    run_lmms_eval(job | scored, tmp_path / "log")
    golds, under_ours, under_own = json.loads((tmp_path / "scores.json").read_text())
    assert golds == dict.fromkeys(questions, 1.0)  # in every layout we compare with what it compares with
    found = {}
    for name in own:
        asked = "".join(part.get("text", "") for part in json.loads(questions[name]["message"])[-1]["content"])
        right = accuracy_reward(own[name], labelled_gold(asked, questions[name]["answer"]))
        found[name] = [right, under_ours[name], under_own[name]]
    assert found == expected


def test_questions_are_the_tasks_own_without_their_system_prompt(evaluated):
    asked = {row["id"]: json.loads(row["message"]) for row in rows(evaluated / "benchmarks" / "questions.jsonl")}
    assert {turn["role"] for turns in asked.values() for turn in turns} == {"user"}
    kinds = [part["type"] for part in asked["mmmu_val_reasoning/0"][0]["content"]]
    assert kinds == ["text", "image", "text"]  # where the question has it
    assert all(sum(part["type"] == "image" for part in turns[0]["content"]) == 1 for turns in asked.values())
    text = asked["mathvista_testmini_cot_reasoning/0"][0]["content"][-1]["text"]
    assert World(0).question in text and "Choices:" in text and "<think>" not in text


def test_every_task_is_in_the_release_and_in_the_documentation():
    (home,) = find_spec("lmms_eval").submodule_search_locations
    text = Path("docs/evaluation.md").read_text(encoding="utf-8")
    assert metadata.version("lmms-eval") == RELEASE
    for name, files in TASKS.items():
        for file in files:
            (line,) = [line for line in (Path(home) / "tasks" / file).read_text().splitlines() if line[:5] == "task:"]
            assert f"`{line[5:].strip().strip(chr(34))}`" in next(
                row for row in text.splitlines() if f"| `{name}`" in row
            )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--benchmarks", "mathvist"], "unknown benchmark 'mathvist': known: mathvista, mathverse"),
        (["--benchmarks", "mmmu,mmmu:."], "mmmu is named twice"),
        (["--benchmarks", "mmmu:gone"], "there is no folder 'gone'"),
        (["--benchmarks.limit", "3"], "holds other benchmarks, another limit"),
        (
            ["--data.path", "held_out.jsonl"],
            "asks questions of its own, and data.path = 'held_out.jsonl' names others",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(evaluated, world, names, capsys, more, said):
    before = {path: path.stat().st_mtime_ns for path in evaluated.rglob("*")}
    assert main(words(world, names, evaluated, *more)) == 2
    assert said in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in evaluated.rglob("*")} == before


def test_a_model_without_a_run_needs_its_base_named(world, names, tmp_path, capsys):
    assert main(["evaluate", str(world / "tiny"), "--benchmarks", names, "--output", str(tmp_path / "new")]) == 2
    assert "name it with --against" in capsys.readouterr().err


def test_data_that_cannot_be_read_is_one_line_and_leaves_nothing_half_written(world, tmp_path, capsys):
    output = tmp_path / "evaluation"
    (tmp_path / "empty").mkdir()
    assert main(words(world, f"mmmu:{tmp_path / 'empty'}", output)) == 2
    assert "mmmu: " in (said := capsys.readouterr().err) and "its data cannot be read" in said
    assert [path.name for path in output.iterdir()] == ["lmms_eval.log"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    assert main(words(world, f"mmmu:{tmp_path / 'empty'}", tmp_path / "run")) == 2
    assert "neither empty nor an evaluation's folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_hub_that_does_not_answer_is_said_and_how_to_do_without(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    assert main(words(world, "mathvista", tmp_path / "evaluation")) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("observe-r1: error: --benchmarks: the Hugging Face Hub does not answer: mathvista: ")
    assert said.endswith("; mathvista:FOLDER reads a copy of AI4Math/MathVista")


def test_without_lmms_eval_the_error_says_how_to_install_it(world, names, tmp_path, capsys, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert main(words(world, names, tmp_path / "new")) == 2
    assert f"pip install --no-deps lmms-eval=={RELEASE}" in capsys.readouterr().err
