"""`ladder push` and `export --push` at a stand-in of the Hub: what arrives, and what a failure leaves."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from built_ladder import build, row
from hub_server import TOKEN, standin

from observe_r1.cli.main import main

COMMANDS = """
import json, os, sys, time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from observe_r1.cli.main import main

time.sleep = lambda seconds: None  # the client waits between its tries
for line in sys.stdin:
    words, token = json.loads(line)
    os.environ["HF_TOKEN"] = token
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Runs commands, one a line, as a process of its own: the client takes its settings from the environment once."""


@pytest.fixture(scope="module")
def hub():
    with standin() as hub:
        yield hub


@pytest.fixture(scope="module")
def command(hub, tmp_path_factory):
    """Return a function that runs a command, and returns its exit code, what it prints, and what it says."""
    home = tmp_path_factory.mktemp("hub")
    variables = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDS],
        env=os.environ | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def run(*words, token=TOKEN):
        process.stdin.write(json.dumps([list(map(str, words)), token]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait()
    process.stdout.close()


@pytest.fixture(autouse=True)
def sound(hub):
    yield
    hub.refused, hub.broken, hub.unanswered = {}, (), ()


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    folder = build(tmp_path_factory.mktemp("ladders") / "ladder", ladder=[row(number) for number in range(3)])
    (folder / "ladder.yaml").write_text("arrange:\n  measured: .\n")
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error(err):
    """Return the error's line, which is the last one."""
    *_, line = err.splitlines()
    assert line.startswith("observe-r1: error: ") and "Traceback" not in err
    return line


def test_a_ladder_and_a_model_arrive_byte_by_byte_and_are_used_from_there(hub, command, ladder, world, tmp_path):
    code, out, err = command("ladder", "push", ladder, "me/ladder", "--to", tmp_path / "dataset")
    assert code == 0
    assert f"uploading {len(contents(tmp_path / 'dataset'))} files (0." in err and " MB) to me/ladder\n" in err
    assert "%|" not in err  # no bars in a log
    assert f"in {tmp_path / 'dataset'}; uploaded to {hub.url}/datasets/me/ladder, which is private" in out
    assert hub.files("me/ladder", "datasets") == contents(tmp_path / "dataset")
    words = ["export", world / "warm", "--to", tmp_path / "model", "--dtype", "float32", "--push", "me/model"]
    code, out, err = command(*words, "--export.private", "false")
    size = sum(map(len, contents(tmp_path / "model").values()))
    assert f"uploading {len(contents(tmp_path / 'model'))} files ({size / 1e6:.1f} MB) to me/model\n" in err
    assert code == 0 and f"uploaded to {hub.url}/me/model, which is public" in out
    assert hub.files("me/model") == contents(tmp_path / "model")

    code, out, err = command("data", "check", "me/ladder")
    assert (code, out.splitlines()[-1]) == (0, "good: all 3 rows"), err
    words = ["evaluate", "me/model", "me/ladder", "--output", tmp_path / "evaluation", "--model.device", "cpu"]
    code, _, err = command(*words, "--rollout.max_new_tokens", 8, "--json")
    assert code == 0, err
    asked = (tmp_path / "evaluation" / "1" / "greedy" / "responses.jsonl").read_text()
    assert len(asked.splitlines()) == 3


def test_a_repository_that_exists_stays_as_visible_as_it_is_and_keeps_no_part_of_an_older_ladder(hub, command, ladder):
    hub.repos["datasets", "me/old"] = {
        "id": "me/old",
        "private": False,
        "files": {"data/train-00001.parquet": b"PAR1", "LICENSE": b"mine", ".gitattributes": b""},
    }
    code, out, _ = command("ladder", "push", ladder, "me/old")
    assert code == 0 and f"{hub.url}/datasets/me/old, which is public" in out
    data = [path for path in hub.files("me/old", "datasets") if path.startswith("data/")]
    assert data == ["data/train-00000.parquet"]
    assert hub.files("me/old", "datasets")["LICENSE"] == b"mine"
    before = hub.repos["datasets", "me/old"]["files"]
    assert command("ladder", "push", ladder, "me/old")[0] == 0  # the same once more
    assert hub.repos["datasets", "me/old"]["files"] == before


SIGN_IN = "(`hf auth login` signs in; the token must allow to write)"


def test_what_the_hub_refuses_is_one_line_that_says_what_has_arrived(hub, command, ladder, tmp_path):
    code, _, err = command("ladder", "push", ladder, "me/none", "--to", tmp_path / "new", token="")
    assert code == 2
    assert error(err).endswith(
        f"push.repo = 'me/none': the Hub answers 401 Unauthorized: Invalid username or password. {SIGN_IN}; "
        f"nothing was uploaded; the finished dataset is in {tmp_path / 'new'}: `hf upload me/none {tmp_path / 'new'} . "
        "--repo-type dataset --private --delete 'data/*.parquet' --delete 'figures/*.png'` uploads it later"
    )
    empty = f"no file has arrived at {hub.url}/datasets/me/read"
    for step in ("preupload", "info/lfs/objects/batch", "^/lfs/", "/commit/main"):
        hub.refused = {step: (403, "You have read-only access.")}
        code, _, err = command("ladder", "push", ladder, "me/read")
        assert code == 2
        assert "the Hub answers 403 Forbidden: You have read-only access." in error(err), step
        assert f"; {empty}; the finished dataset is in " in error(err)
        assert hub.files("me/read", "datasets") == {}
    hub.refused = {"repos/create": (403, "You have no rights here."), "/api/datasets/": (404, "Not found")}
    code, _, err = command("ladder", "push", ladder, "other/new")
    assert code == 2 and "403 Forbidden: You have no rights here." in error(err)
    assert "; nothing was uploaded; the finished dataset is in " in error(err)
    for name, why in (("new", "whose is it?"), ("a b/new", "a b/new")):
        code, _, err = command("export", tmp_path, "--to", tmp_path / "x", "--push", name)
        assert code == 2 and why in error(err) and "export.push" in error(err)


def test_a_connection_that_breaks_is_one_line_and_the_same_command_goes_on(hub, command, ladder):
    def pushed():
        code, _, err = command("ladder", "push", ladder, "me/far")
        return code, err

    hub.broken = ("^/lfs/",)
    code, err = pushed()
    assert code == 2 and f"; no file has arrived at {hub.url}/datasets/me/far; " in error(err)
    assert "Error while uploading" in error(err)
    hub.broken = ("/commit/main",)
    code, err = pushed()
    assert code == 2 and f"; no file has arrived at {hub.url}/datasets/me/far; " in error(err)
    assert hub.files("me/far", "datasets") == {}
    uploaded = set(hub.large)
    hub.broken = ("/commit/main", "^/api/datasets/me/far$")
    code, err = pushed()
    assert code == 2 and "me/far" in error(err)
    hub.broken = ()
    assert pushed()[0] == 0
    assert set(hub.large) == uploaded, "what had arrived before is not sent again"


def test_a_commit_whose_answer_is_lost_has_arrived(hub, command, ladder):
    hub.unanswered = ("/commit/main",)
    code, out, err = command("ladder", "push", ladder, "me/lost")
    assert code == 0 and f"uploaded to {hub.url}/datasets/me/lost" in out, err
    assert "data/train-00000.parquet" in hub.files("me/lost", "datasets")


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_without_a_network_the_folder_stays_and_the_line_says_how_to_upload_it(
    kind, hub, ladder, world, tmp_path, capsys, monkeypatch
):
    words, private = {
        "dataset": (["ladder", "push", str(ladder), "me/later"], True),
        "model": (["export", str(world / "warm"), "--to", str(tmp_path / "new"), "--push", "me/later"], False),
    }[kind]
    words += ["--private", str(private).lower()]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        assert main(words) == 2
    line = error(capsys.readouterr().err)
    assert "= 'me/later': the Hugging Face Hub cannot be reached (" in line
    assert "; nothing was uploaded; " in line and "auth login" not in line, "signing in would not help"
    place, typed = re.search(rf"the finished {kind} is in (\S+): `(hf upload .*)` uploads it later$", line).groups()
    finished = contents(Path(place))
    assert finished

    hf, *typed = shlex.split(typed)
    home = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([Path(sys.executable).with_name(hf), *typed], env=os.environ | home, check=True, capture_output=True)
    assert hub.files("me/later", f"{kind}s") == finished
    assert hub.repos[f"{kind}s", "me/later"]["private"] is private


def test_no_folder_is_left_of_a_push_that_succeeds(hub, ladder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["ladder", "push", str(ladder), "me/gone"]) == 0, capsys.readouterr().err
    assert not list(tmp_path.iterdir()) and hub.files("me/gone", "datasets")
