"""The folder of a ladder between commands: which settings it remembers, what is refused, and what is thrown away."""

import os

import pytest
import yaml

from observe_r1.config import LadderSettings
from observe_r1.config.verbs import dump_settings
from observe_r1.errors import UserError
from observe_r1.ladder.folder import opened
from observe_r1.ladder.inference import load_engine
from observe_r1.ladder.journal import Journal, read_progress
from observe_r1.ladder.refreshing import refresh, unfinished
from observe_r1.ladder.stage import Watch
from observe_r1.report.ladder_figures import FIGURES

BESIDE = {"images", "review.yaml", "ladder.yaml", "progress.json", "begun.json"}


def settings(folder, model=None, **sections):
    values = {"run": {"output": str(folder)}, "model": {"path": model}}
    return LadderSettings.model_validate(values | sections)


def go(folder, stage, done=1, complete=True):
    with Journal(folder, stage, [f"{stage}.jsonl"]) as journal:
        journal.append(f"{stage}.jsonl", [{"row": done}])
        journal.commit(done, complete=complete)


def recorded(folder):
    return yaml.safe_load((folder / "ladder.yaml").read_text())


@pytest.fixture
def screened(tmp_path):
    """A folder whose screen came to its end, with the recorded model `a`."""
    with opened(settings(tmp_path / "ladder", "a"), "screen") as folder:
        go(folder, "read")
        go(folder, "screen")
    return folder


def test_a_measurement_that_failed_midway_goes_on_with_the_settings_that_it_began_with(screened):
    with pytest.raises(UserError, match="disk full"), opened(settings(screened, "b"), "measure"):
        go(screened, "measure", complete=False)
        raise UserError("disk full")
    assert recorded(screened)["model"]["path"] == "b"
    with opened(settings(screened, "b"), "measure"):
        pass
    again = settings(screened, "a")
    with pytest.raises(UserError, match=r"model\.path was 'b' and is 'a' now"), opened(again, "measure"):
        pass


def test_settings_of_a_command_that_came_to_nothing_are_forgotten(screened):
    with pytest.raises(UserError, match="no such model"), opened(settings(screened, "typo"), "measure"):
        raise UserError("no such model")
    assert recorded(screened)["model"]["path"] == "a"


def test_what_is_to_be_done_anew_stays_where_the_command_is_refused(screened):
    with opened(settings(screened, "a"), "measure"):
        go(screened, "measure")
    before = read_progress(screened)
    anew = settings(screened, "b", data={"label_key": "gold"}, run={"output": str(screened), "anew": True})
    with pytest.raises(UserError, match=r"data\.label_key was 'answer' and is 'gold' now"), opened(anew, "measure"):
        pass
    assert read_progress(screened) == before and recorded(screened)["model"]["path"] == "a"


@pytest.mark.parametrize(
    ("verb", "kept"),
    [("build", ()), ("screen", ()), ("measure", ("questions", "screening", "screened", "dropped"))],
)
def test_a_stage_done_anew_leaves_nothing_of_the_later_ones(tmp_path, verb, kept):
    """A ladder of other questions must not be trained on meanwhile; what a person wrote and images stay."""
    rows = ("questions", "screening", "screened", "dropped", "measured", "responses", "unsolved", "ladder")
    for name in (*(f"{name}.jsonl" for name in rows), "README.md", "ladder.html", "review.html", "review-2.html"):
        (tmp_path / name).touch()
    for name in ("images/a.png", "figures/share.png", "refreshed-1/measured.jsonl", "review.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "ladder.yaml").write_text(dump_settings(settings(tmp_path)))
    with opened(settings(tmp_path, run={"output": str(tmp_path), "anew": True}), verb):
        left = {path.name for path in tmp_path.iterdir()} - {".lock"}
    refreshed = {"refreshed-1"} if kept else set()
    assert left == {*(f"{name}.jsonl" for name in kept), *refreshed, *BESIDE}


OTHERS = (
    "refreshed-1 copy/x",
    "refreshed-notes/x",
    "refreshed-1/notes",
    "review-mine.html",
    "figures/mine.png",
    "mine",
)


def test_what_others_put_beside_it_stays(tmp_path):
    ours = [f"figures/{name}.png" for name in FIGURES]
    for name in (*OTHERS, *ours, "refreshed-1/measured.jsonl", "review-2.html", "ladder.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "ladder.yaml").write_text(dump_settings(settings(tmp_path)))
    with opened(settings(tmp_path, run={"output": str(tmp_path), "anew": True}), "build"):
        files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {*OTHERS, ".lock", "ladder.yaml", "progress.json", "begun.json"}


def test_between_two_screening_models_sampling_stays_as_it_was(tmp_path):
    models = {"screen": {"models": ["a", "b"]}}
    with opened(settings(tmp_path, **models), "screen"):
        go(tmp_path, "read")
        go(tmp_path, "screen 1")
    other = settings(tmp_path, rollout={"batch": 7}, **models)
    with pytest.raises(UserError, match=r"rollout\.batch was 128 and is 7 now"), opened(other, "screen"):
        pass


@pytest.mark.parametrize("verb", ["measure", "build"])
def test_a_measurement_goes_on_with_less_memory_but_not_with_other_responses(screened, verb):
    with opened(settings(screened, "a", rollout={"vllm": {"max_model_len": 900}}), verb):
        go(screened, "measure", complete=False)
    vllm = {"max_model_len": 900, "gpu_memory_utilization": 0.3, "max_num_seqs": 8, "limit_mm_per_prompt": {"image": 9}}
    with opened(settings(screened, "a", rollout={"vllm": vllm, "max_rows": 8}), verb):
        pass
    assert recorded(screened)["rollout"]["max_rows"] == 8 and recorded(screened)["rollout"]["vllm"] == vllm
    for refused, line in (({"max_model_len": 800}, "was 900 and is 800"), ({}, "was 900 and is None")):
        again = settings(screened, "a", rollout={"vllm": refused})
        with pytest.raises(UserError, match=rf"rollout\.vllm\.max_model_len {line}"), opened(again, verb):
            pass


@pytest.mark.parametrize("text", ["rollout: {vllm: 3}", "rollout: 3", "3", "[1]", "{"])
def test_recorded_settings_that_were_tampered_with_are_named(screened, text):
    (screened / "ladder.yaml").write_text(text)
    with pytest.raises(UserError, match=r"ladder\.yaml: not as the build"), opened(settings(screened, "a"), "measure"):
        pass


def test_what_a_kill_leaves_of_the_first_settings_is_no_other_folder(tmp_path):
    (tmp_path / "ladder.yaml.partial").write_text("data:")
    with opened(settings(tmp_path), "screen"):
        pass
    assert recorded(tmp_path)["run"]["output"] == str(tmp_path)


def test_screening_models_may_be_others_until_one_was_asked(tmp_path):
    with opened(settings(tmp_path, screen={"models": ["typo"]}), "screen"):
        go(tmp_path, "read")
    with opened(settings(tmp_path, screen={"models": ["a"]}), "screen"):
        go(tmp_path, "screen 1", complete=False)
    for refused in ({"models": ["b"]}, {"models": ["a"], "benchmarks": ["x.jsonl"]}):
        with pytest.raises(UserError, match="screen"), opened(settings(tmp_path, screen=refused), "screen"):
            pass


INPUTS = {"read": "questions.jsonl", "screen 1": "small", "measure": "large"}
AFTER = {"read": ("read",), "screen 1": ("read", "screen 1"), "measure": ("read", "screen 1", "screen", "measure")}


@pytest.fixture
def reading(tmp_path):
    """Settings that read a file of questions, a screening and a measuring model, and the files that can change."""
    for model in ("small", "large"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "model.safetensors").write_text("weights")
    (tmp_path / "questions.jsonl").write_text("{}")
    names = {name: str(tmp_path / name) for name in INPUTS.values()}
    sections = {"data": {"sources": [names["questions.jsonl"]]}, "screen": {"models": [names["small"]]}}
    files = {stage: tmp_path / name for stage, name in INPUTS.items()}
    files |= {stage: file / "model.safetensors" for stage, file in files.items() if file.is_dir()}
    return settings(tmp_path / "ladder", names["large"], **sections), files


def try_(values, verb="build"):
    with opened(values, verb) as folder:
        return folder


@pytest.mark.parametrize("changed", INPUTS)
@pytest.mark.parametrize("begun", [None, *INPUTS])
def test_what_a_stage_has_read_must_not_change_from_then_on(reading, changed, begun):
    values, files = reading
    with opened(values, "build") as folder:
        for stage in AFTER.get(begun, ()):
            go(folder, stage)
    files[changed].write_text("others, or more of them")
    refused = changed in AFTER.get(begun, ())
    for _ in range(2):  # to be refused changes nothing
        if refused:
            with pytest.raises(UserError, match=f"{INPUTS[changed]} changed since the ladder in .* began with it: "):
                try_(values)
        else:
            assert try_(values) == folder
    # What is arranged is what was measured, whatever became of the model.
    try_(values, "arrange")
    anew = values.model_copy(update={"run": values.run.model_copy(update={"anew": True})})
    assert try_(anew) == folder and try_(values) == folder


def test_times_count_and_what_is_gone_does_not(reading):
    values, files = reading
    with opened(values, "build") as folder:
        for stage in AFTER["measure"]:
            go(folder, stage)
    for file in files.values():
        before = file.stat().st_mtime_ns
        os.utime(file, ns=(before, before + 10**9))
        with pytest.raises(UserError, match=r"changed since .*: .*--anew starts over; if its content is the same"):
            try_(values)
        os.utime(file, ns=(before, before))
    for file in files.values():
        file.unlink()
    try_(values)
    files["read"].write_text("new")  # still remembered
    with pytest.raises(UserError, match=r"the questions of .*questions\.jsonl changed"):
        try_(values)
    (folder / "begun.json").unlink()  # as the error says; earlier versions wrote none
    try_(values)


@pytest.mark.parametrize("text", ["", "[]", '{"read": 1}', "\xff"])
def test_a_damaged_record_of_what_was_read_is_one_line(reading, text):
    values, _ = reading
    (try_(values) / "begun.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"begun\.json: not as the build wrote it: restore the file, or remove it"):
        try_(values)


def test_a_refresh_goes_on_only_with_the_weights_that_it_began_with(reading, monkeypatch):
    values, files = reading

    def half(folder, *_, **__):
        go(folder, "measure", complete=False)
        return False

    monkeypatch.setattr("observe_r1.ladder.difficulty.measure_questions", half)
    folder = try_(values)
    for name in ("ladder.jsonl", "unsolved.jsonl"):
        (folder / name).write_text('{"id": "1", "message": "?", "answer": "1"}\n')
    for refreshed in (1, 1):
        assert refresh(folder, values, Watch(), load_engine) is None
        assert unfinished(folder) == folder / f"refreshed-{refreshed}" / "ladder.yaml"
    files["measure"].write_text("newer weights")
    assert refresh(folder, values, Watch(), load_engine) is None
    assert sorted(path.parent.name for path in folder.glob("*/progress.json")) == ["refreshed-1", "refreshed-2"]
