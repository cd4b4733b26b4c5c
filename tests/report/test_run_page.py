"""Pages of runs, evaluations and ladders: what they read, choose and say; `test_page_in_browser` looks at them."""

import json
import re
import shutil
import socket
import struct
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from built_ladder import build, row
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import GROUP, record_run

from observe_r1.cli.main import main
from observe_r1.errors import UserError
from observe_r1.evaluation.figures import Answered, GradedResponse, summarize
from observe_r1.report import gallery, serving
from observe_r1.report.build_folder import open_build
from observe_r1.report.charts import smoothed
from observe_r1.report.ladder_summary import summarize_ladder
from observe_r1.report.run_page import render_report
from observe_r1.report.run_records import SampledGroup, held_out_groups, label_runs, read_run, sampled_groups
from observe_r1.report.serving import PageServer
from observe_r1.threads import in_daemon_thread


def data_of(page):
    return json.loads(re.search(r'id="gallery-data">(.*?)</script>', page)[1])


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.split("<body")[1]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return record_run(tmp_path_factory.mktemp("page") / "run", steps=20)


@pytest.fixture(scope="module")
def page(run):
    return render_report([run])


def test_figures_and_their_change_are_those_of_the_metrics(page):
    said = text_of(page)
    assert "75.0% held-out accuracy from 25.0% (+50.0 points)" in said
    assert "1.195 reward from 1.015 (+0.180)" in said  # means of steps 1, 2 and of 19, 20: a tenth of 20
    assert "20 steps in 40 s" in said and "20 steps, starting from base/model, on run-questions/train.jsonl." in said


def test_cards_hold_what_the_rollouts_say(page):
    data = data_of(page)
    training = [card for card in data["cards"] if card["part"] == "training"]
    assert [card["id"] for card in training] == [f"train-{number}" for number in range(40)]
    card = training[33]
    assert (card["step"], card["difficulty"], card["right"], card["of"]) == (17, 0.75, 1, GROUP)
    assert card["responses"][0] | {"text": ""} == {
        **{
            "by": "response 1",
            "text": "",
            "tokens": 20,
            "correct": True,
            "reward": 1.5,
            "advantage": 1.0,
            "bonus": 0.2,
        },
        "parts": {"accuracy": 1.0, "format": 0.5},
    }
    assert data["images"][card["images"][0]]["src"].startswith("data:image/webp;base64,")
    before, after = next(card for card in data["cards"] if card["part"] == "held-out")["responses"]
    assert (before["by"], before["correct"], after["by"], after["correct"]) == (
        "before training",
        False,
        "after step 20",
        True,
    )
    assert "All 48 questions with their responses." in text_of(page)


def test_what_is_left_out_is_said(run, monkeypatch):
    monkeypatch.setattr(gallery, "MAX_BYTES", 4_000)
    monkeypatch.setattr("observe_r1.report.run_page.MAX_GROUPS", 40)
    page = render_report([run])
    shown = len(data_of(page)["cards"])
    assert 4 < shown < 20 + 8 and f"{shown} of 48 questions with their responses" in text_of(page)
    assert "would make the page too large" in text_of(page)


@given(st.lists(st.integers(1, 10**6), unique=True, max_size=300), st.integers(0, 300))
def test_shown_steps_are_spread_and_never_too_many(steps, most):
    steps.sort()
    shown = list(gallery.steps_shown(steps, most))
    assert sum(count for _, count in shown) == (most if steps else 0)
    assert [step for step, _ in shown] == sorted({step for step, _ in shown} & set(steps))
    assert len(shown) == min(len(steps), most)
    counts = [count for _, count in shown]
    assert not counts or max(counts) - min(counts) <= 1


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 40))
def test_groups_with_right_and_wrong_responses_are_chosen_first(rights, most):
    groups = [
        SampledGroup(1, str(number), tuple({"correct": n < right} for n in range(4)))
        for number, right in enumerate(rights)
    ]
    chosen = gallery.choose(groups, most)
    mixed = sum(0 < right < 4 for right in rights)
    assert len(chosen) == len({group.id for group in chosen}) == min(most, len(groups))
    assert sum(0 < group.share_right < 1 for group in chosen) == min(most, mixed)


def test_smoothed_values_are_means_of_a_tenth():
    values = [float(number % 7) for number in range(40)]
    expected = [sum(values[max(0, i - 2) : i + 3]) / len(values[max(0, i - 2) : i + 3]) for i in range(40)]
    assert smoothed(values) == pytest.approx(expected)


def test_a_live_run_is_read_while_it_writes(tmp_path):
    folder = record_run(tmp_path / "run", steps=2)
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 3, "rew')
    assert read_run(folder).steps == 2
    (folder / "metrics.jsonl").unlink()
    assert read_run(folder).steps == 0 and "0 steps, starting" in text_of(render_report([folder]))


def test_data_is_found_from_where_the_run_was_started(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    record_run((tmp_path / "work" / "runs" / "mine").relative_to(tmp_path / "work"), steps=2)
    monkeypatch.chdir(tmp_path)
    assert len(data_of(render_report([tmp_path / "work" / "runs" / "mine"]))["images"]) == 4 + 8
    for file in (tmp_path / "work").rglob("train.jsonl"):
        file.unlink()
    said = text_of(render_report([tmp_path / "work" / "runs" / "mine"]))
    assert "mine: its questions and images cannot be shown: " in said and "no such file" in said


def record_evaluation(folder, questions, models):
    """Write an evaluation as `run.evaluate` does: models by name, each with the answers that are right."""
    folder.mkdir()
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    answered = []
    for number, right in enumerate(models.values(), start=1):
        answers = [
            Answered(
                each["id"],
                each["source"],
                f"{each['difficulty']:g}",
                "number",
                GradedResponse("a", each["id"] in right, True, 5, "stop"),
            )
            for each in rows
        ]
        answered.append(answers)
        (folder / str(number) / "greedy").mkdir(parents=True)
        said = [{"id": a.id, "number": 0, "text": "a", "tokens": 5, "correct": a.greedy.correct} for a in answers]
        text = "".join(json.dumps(each | {"well_formed": True, "finish": "stop"}) + "\n" for each in said)
        (folder / str(number) / "greedy" / "responses.jsonl").write_text(text)
    (folder / "summary.json").write_text(json.dumps(summarize(list(models), answered, len(rows), 0)))
    (folder / "begun.json").write_text("{}")
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"data": {"path": str(questions)}, "run": {"output": str(folder)}})
    )
    return folder


def test_evaluations_and_ladders_stand_beside_runs(run, tmp_path):
    questions = run.parent / "run-questions" / "train.jsonl"
    ids = [f"train-{number}" for number in range(40)]
    evaluation = record_evaluation(
        tmp_path / "evaluation", questions, {"a/trained": {*ids[:30]}, "a/base": {*ids[:10]}}
    )
    ladder = tmp_path / "ladder"
    build(ladder, ladder=[row(0), row(1)])
    page = render_report([evaluation, run, ladder])
    said = text_of(page)
    assert re.search(r"accuracy 75\.0% \[.*?\] 25\.0% \[.*?\] \+50\.0% \[", said)
    assert "Accuracy by difficulty" in said and "NeuraLadder ladder" in said and "By source" in said
    cards = [card for card in data_of(page)["cards"] if card["part"] == "evaluation"]
    assert len(cards) == 40 and [response["by"] for response in cards[0]["responses"]] == ["base", "trained"]
    assert [response["correct"] for response in cards[0]["responses"]] == [False, True]  # what was mended comes first
    assert len(page) < 1_500_000


def spoiled(name, text):
    """Returns a function that records a run, and then overwrites one of its files."""
    return lambda folder: (record_run(folder, steps=2) / name).write_text(text)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "no such folder: name the folder of a run, a ladder or an evaluation"),
        (lambda folder: folder.mkdir(), "not the folder of a run, a ladder or an evaluation: name one of them"),
        (lambda folder: record_run(folder / "rl", steps=1), "not the folder of a run, .*did you mean .*x/rl\\?"),
        (spoiled("metrics.jsonl", "1\n2\n"), "metrics.jsonl line 1: not as a run wrote it"),
        (spoiled("config.yaml", "- 1"), "config.yaml: not as a run wrote it"),
        *(
            (spoiled("metrics.jsonl", f'{{"step": 1}}\n{line}\n'), "metrics.jsonl line 2: not as a run wrote it")
            for line in (
                '{"step": 2, "reward/mean": NaN}',
                '{"step": 2, "reward/mean": -Infinity}',
                '{"step": 2, "reward/mean": 1e308}',
                '{"step": 2, "reward/mean": 1' + 400 * "0" + "}",
                '{"step": Infinity}',
                '{"step": -1}',
                "[" * 100_000,
            )
        ),
        (spoiled("rollouts/step-000002.jsonl", "{}\n"), "step-000002.jsonl row 1, 'id': not as a run wrote it"),
        (spoiled("rollouts/step-000002.jsonl", "{"), "step-000002.jsonl"),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, capsys, make, words):
    make(tmp_path / "x")
    assert main(["report", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("observe-r1: error: ") and re.search(words, error)
    assert not (tmp_path / "x" / "report.html").exists()


@pytest.mark.parametrize("value", [None, [1], {}])
def test_a_response_without_what_the_page_needs_is_named(run, tmp_path, value):
    folder = shutil.copytree(run, tmp_path / "run")
    for read, name, kind in (
        (sampled_groups, "rollouts", "id response text answer correct advantage"),
        (held_out_groups, "evaluations", "id response text answer correct"),
    ):
        path = folder / name / "step-000020.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for column in kind.split():
            spoilt = [rows[0], rows[1] | {column: value}, *rows[2:]]
            path.write_text("".join(json.dumps(row) + "\n" for row in spoilt))
            with pytest.raises(UserError, match=f"step-000020.jsonl row 2, '{column}': not as a run wrote it"):
                read(read_run(folder), 20)
        path.write_text(json.dumps(rows[0]) + "\n[1]\n")
        with pytest.raises(UserError, match=r"step-000020.jsonl row 2: not as a run wrote it"):
            read(read_run(folder), 20)


def test_a_measurement_without_its_figures_is_named(tmp_path):
    folder = build(tmp_path / "ladder", ladder=[row(1)], measured=[{"id": "id-1"}])
    with pytest.raises(UserError, match=r"measured.jsonl row 1, 'tries': not as the build wrote it"):
        summarize_ladder(open_build(folder))
    build(folder, measured=[], dropped=[{"id": "id-1"}])
    with pytest.raises(UserError, match=r"dropped.jsonl row 1, 'stage': not as the build wrote it"):
        summarize_ladder(open_build(folder))


def fetched(server, host=None):
    """Status and text of the page."""
    port = server.server_address[1]
    request = Request(f"http://127.0.0.1:{port}/", headers={"Host": host or f"127.0.0.1:{port}"})
    try:
        with urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_what_the_page_fails_on_is_told_once_and_the_server_goes_on(run, capsys):
    def render(version):
        raise type(errors[-1])(*errors[-1].args)

    errors = [ZeroDivisionError("a bug")]
    with PageServer([run], 0, render) as server:
        in_daemon_thread(server.serve_forever)
        for _ in range(2):
            status, text = fetched(server)
            assert status == 500 and "ZeroDivisionError" in text and "the terminal says more" in text
        said = capsys.readouterr().err
        assert said.count("Traceback") == 1 and said.rstrip().endswith("ZeroDivisionError: a bug")
        errors.append(UserError("metrics.jsonl: put it back"))
        assert fetched(server) == (500, "metrics.jsonl: put it back")
        with socket.create_connection(server.server_address) as left:  # a browser that leaves at once
            left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            left.sendall(b"GET / HTTP/1.1\r\n")
        assert fetched(server)[0] == 500
        server.shutdown()
    assert capsys.readouterr().err == ""


def test_only_own_names_are_answered_and_a_browser_names_no_port_80(run, monkeypatch):
    with PageServer([run], 0, lambda version: "page") as server:
        in_daemon_thread(server.serve_forever)
        port = server.server_address[1]
        asked = (f"localhost:{port}", "localhost", "127.0.0.1", f"evil.com:{port}", "evil.com")
        assert [fetched(server, host)[0] for host in asked] == [200, 403, 403, 403, 403]
        server.shutdown()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(serving, "_HTTP_PORT", port)
    with PageServer([run], port, lambda version: "page") as server:
        in_daemon_thread(server.serve_forever)
        asked = (f"localhost:{port}", "localhost", "127.0.0.1", f"evil.com:{port}", "evil.com")
        assert [fetched(server, host)[0] for host in asked] == [200, 200, 200, 403, 403]
        server.shutdown()


def test_the_command_writes_where_it_is_told(run, page, tmp_path, capsys):
    assert main(["report", str(run), "--to", str(tmp_path / "page.html")]) == 0
    assert f"the report is in {tmp_path / 'page.html'} (0." in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text() == page  # byte for byte the same each time
    assert main(["report", str(run), "--to", "x", "--serve"]) == 2
    assert "--to and --serve exclude each other" in capsys.readouterr().err
    assert main(["report", str(run), str(run)]) == 2
    assert "named twice" in capsys.readouterr().err


def test_names_are_as_long_as_it_takes(tmp_path):
    folders = [tmp_path / name for name in ("a/rl", "b/rl", "c")]
    assert label_runs(folders[1:]) == ["rl", "c"] and label_runs(folders) == ["a/rl", "b/rl", f"{tmp_path.name}/c"]


def test_only_this_machine_is_served(run):
    with PageServer([run], 0, lambda version: f"page {version}") as server:
        assert server.server_address[0] == "127.0.0.1"
        first = server.version()
        assert server.page() == f"page {first}"
        (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + "\n")
        assert server.version() != first
        with pytest.raises(UserError, match=f"127.0.0.1 port {server.server_address[1]}: .*; choose another --port"):
            PageServer([run], server.server_address[1], str)
