"""Files and folders that are whole or absent, whatever stops the process that writes them."""

import errno
import os

import pytest
from safetensors.torch import save_file
from torch import zeros

from observe_r1 import files
from observe_r1.errors import UserError, disk_fault, in_words
from observe_r1.files import clear_unfinished, make_folder, remove_files, replacing, write_atomic


@pytest.mark.parametrize("content", ["text ü", b"bytes \xff"])
def test_a_file_is_written_whole_over_an_old_one(tmp_path, content):
    path = tmp_path / "file"
    path.write_text("old and longer than the new content")
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_gets_the_usual_permissions(tmp_path):
    write_atomic(tmp_path / "atomic", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_leaves_the_old_file_and_one_line(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write '.*file': No space left on device"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_even_be_begun_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path / "file" / "a", "Not a directory"), (tmp_path / ("a" * 250), "File name too long")):
        with pytest.raises(UserError, match=f"cannot write '{path}': {reason}"):
            write_atomic(path, "new")


def test_a_file_where_a_folder_has_to_be_is_named(tmp_path):
    (tmp_path / "evaluations").write_text("somebody's")
    for act in (
        lambda: make_folder(tmp_path / "evaluations"),
        lambda: make_folder(tmp_path / "evaluations" / "a" / "b"),
        lambda: (tmp_path / "evaluations" / "a").read_bytes(),
        lambda: list((tmp_path / "evaluations").iterdir()),
    ):
        with pytest.raises(OSError) as caught:
            act()
        told = disk_fault(caught.value)
        assert str(told).startswith(f"'{tmp_path}/evaluations' is a file, and a folder of that name is needed")
        assert in_words(caught.value) == f"'{tmp_path}/evaluations' is a file"
    for act in (lambda: tmp_path.mkdir(), lambda: (tmp_path / "none").read_bytes(), lambda: tmp_path.read_bytes()):
        with pytest.raises(OSError) as caught:
            act()
        assert disk_fault(caught.value) is None  # no file of the user's is in the way
        assert in_words(caught.value) == caught.value.strerror


# Folders


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_everything_in_a_folder_gets_the_permissions_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "model") as new:
            (new / "part").mkdir()
            save_file({"x": zeros(1)}, new / "part" / "x.safetensors")  # which safetensors gives to its owner alone
            (new / "plain").touch()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    folder, file = 0o777 & ~umask, 0o666 & ~umask
    assert modes == {"model": folder, "part": folder, "x.safetensors": file, "plain": file}


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_folder_is_the_old_or_the_new_one_after_a_kill(tmp_path, renames):
    folder = tmp_path / "run" / "model"
    with replacing(folder) as new:
        (new / "old").touch()
    if not (child := os.fork()):
        _replace_and_die(folder, renames)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list(folder.parent.iterdir())) == (1 if renames == 1 else 2), "of no use: nothing was left behind"
    clear_unfinished(folder.parent)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert [path.name for path in folder.iterdir()] == (["new"] if renames == 2 else ["old"])


def _replace_and_die(folder, renames):
    """Replace `folder` in a process that ends, without any clean-up, after so many of the two renames."""
    calls, rename = [], os.rename

    def counted(*arguments):
        if len(calls) == renames:
            os._exit(9)
        rename(*arguments)
        calls.append(1)

    os.rename = counted
    files._sync = lambda path: os._exit(9) if len(calls) == renames == 2 else None
    with replacing(folder) as new:
        (new / "new").touch()
    os._exit(0)


def test_only_what_a_kill_left_is_cleared(tmp_path):
    foreign = (
        ".model.observe-r1-short/new",
        ".model-abcdefgh/new",
        ".model.observe-r1-abcdefgh/new",
        "model.observe-r1-abcdefgh/new",
    )
    for name in (*foreign, ".model.observe-r1-abcdefgh/mine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".model.observe-r1-12345678").write_text("mine")
    (tmp_path / ".model.observe-r1-87654321").symlink_to(tmp_path / ".model-abcdefgh")
    before = sorted(tmp_path.rglob("*"))
    clear_unfinished(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_files_are_removed_by_name_and_folders_only_when_empty(tmp_path):
    for name in ("a/b/x.bin", "a/b/y.bin", "a/z", "c/x.bin", "c/mine"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_files(tmp_path / "a", ["b/*.bin", "z", "missing/q"])
    remove_files(tmp_path / "c", ["*.bin"])
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["c", "c/mine"]


def test_every_folder_that_is_made_is_written_down_in_the_one_above(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "_sync", synced.append)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"] and (tmp_path / "a" / "b").is_dir()
