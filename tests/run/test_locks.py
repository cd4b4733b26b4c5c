"""The lock of a folder: one holder, while it lives, and nothing of anybody else's is taken for one."""

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from observe_r1.config import TrainSettings
from observe_r1.errors import UserError
from observe_r1.run.folder import RunFolder

SETTINGS = TrainSettings(model={"path": "m"}, data={"path": "d"})

OPEN_IN_ANOTHER_PROCESS = """
import os, sys
from observe_r1.config import TrainSettings
from observe_r1.run.folder import RunFolder
resume = "resume" in sys.argv
folder = RunFolder(sys.argv[1], TrainSettings(model={"path": "m"}, data={"path": "d"}), resume)
child = os.fork() if "and fork" in sys.argv else 1
if child:
    print(os.getpid(), flush=True)
sys.stdin.read()
if "release" in sys.argv:
    folder.__exit__(None, None, None)
"""


def open_elsewhere(path, *more):
    command = [sys.executable, "-c", OPEN_IN_ANOTHER_PROCESS, str(path), *more]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    return process, pid


def close(process):
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_a_live_run_keeps_others_out_until_it_ends(tmp_path):
    process, pid = open_elsewhere(tmp_path / "run")
    try:
        with pytest.raises(UserError, match=f"process {pid} is writing there"):
            RunFolder(tmp_path / "run", SETTINGS)
    finally:
        close(process)
    with pytest.raises(UserError, match="not an empty folder"):
        RunFolder(tmp_path / "run", SETTINGS)


def test_a_killed_run_holds_nothing_though_a_child_of_it_lives_on(tmp_path):
    process, pid = open_elsewhere(tmp_path / "run", "and fork")
    try:
        os.kill(pid, signal.SIGKILL)
        process.wait()
        with pytest.raises(UserError, match="not an empty folder"):
            RunFolder(tmp_path / "run", SETTINGS)
    finally:
        close(process)


@pytest.mark.parametrize("place", [lambda p: p.symlink_to("precious"), lambda p: p.mkdir(), os.mkfifo])
def test_what_stands_in_the_lock_s_place_is_neither_opened_nor_overwritten(tmp_path, place):
    run = tmp_path / "run"
    run.mkdir()
    (run / "precious").write_text("12")
    place(run / ".lock")
    with pytest.raises(
        UserError, match=r"run\.output = '.*run': '\.lock' in it is not a lock file of observe-r1; move it away"
    ):
        RunFolder(run, SETTINGS)
    assert (run / "precious").read_text() == "12"


@pytest.mark.parametrize("content", [b"my notes", b"\xff\xfe", b"12 and more"])
def test_a_file_of_the_lock_s_name_keeps_its_content(tmp_path, content):
    (tmp_path / ".lock").write_bytes(content)
    with pytest.raises(UserError, match=r"'\.lock' in it is not a lock file of observe-r1"):
        RunFolder(tmp_path, SETTINGS)
    assert (tmp_path / ".lock").read_bytes() == content


def test_a_lock_that_is_removed_and_taken_again_has_one_holder(tmp_path, monkeypatch):
    """This process has opened the first holder's file when that one ends and a second one makes a new file."""
    first, _ = open_elsewhere(tmp_path / "run", "release")
    take, seconds = fcntl.lockf, []

    def take_late(*arguments):
        if not seconds:
            close(first)
            seconds.append(open_elsewhere(tmp_path / "run", "resume"))
        return take(*arguments)

    monkeypatch.setattr("observe_r1.files.fcntl.lockf", take_late)
    try:
        with pytest.raises(UserError, match="is writing there") as error:
            RunFolder(tmp_path / "run", SETTINGS, resume=True)
        assert f"process {seconds[0][1]} is" in str(error.value)
    finally:
        close(seconds[0][0])


def test_whoever_comes_after_a_removed_lock_keeps_its_own(tmp_path):
    """Somebody removed the file of a live run, and another run took a new one: the end of the first leaves it alone."""
    with RunFolder(tmp_path / "run", SETTINGS) as folder:
        (folder.path / ".lock").unlink()
        process, pid = open_elsewhere(tmp_path / "run", "resume")
    try:
        assert (folder.path / ".lock").read_text() == str(pid)
    finally:
        close(process)
