"""From what a user names (a file, a glob, a folder, a dataset on the Hub) to the files that hold its rows."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError
from observe_r1.registry import REGISTRY, beside

FILE_KINDS = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".arrow")
"""Endings of files that hold rows."""

LADDER = "ladder.jsonl"
_SPLIT = re.compile(r"(.+)@([A-Za-z]\w*)")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SPLIT_WORDS = ("train", "training", "validation", "valid", "val", "dev", "eval", "test", "testmini")
_SHARD = re.compile(r"(\w+)-\d+-of-\d+")
_NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
IMAGE_KINDS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Endings of images."""


def place_and_split(text: str) -> tuple[str, str]:
    """Return the two parts of `PLACE@SPLIT`; the split is empty if none is named.

    An existing file or folder with an `@` in its own name has no such parts. `~` is the home folder.
    """
    home = str(Path(text).expanduser()) if text.startswith("~") else text
    asked = None if Path(home).exists() else _SPLIT.fullmatch(home)
    return (asked[1], asked[2]) if asked else (home, "")


class MissingDataError(UserError):
    """There is nothing of that name; whoever knows which setting holds the name adds it."""


def find_parts(place: str, split: str, *, asked: bool) -> list[str]:
    """Return the parts of `place`, in order: files, folders that `datasets` saved, or the name itself for the Hub.

    Args:
        place: A file; a glob (`*`, `?`, `[…]`); a folder: of a ladder, of files of rows (there, in `data/` or in a
            folder named like the split), of images with a `metadata.jsonl` or `metadata.csv`, or one that
            `save_to_disk` wrote; else `owner/name` on the Hub.
        split: The files to take if their names (`train-00000-of-00002.parquet`, `train.jsonl`) or those of their
            folders tell splits apart.
        asked: Whether the user named that split; if not, a place without splits is read whole.

    Raises:
        UserError: The place does not exist, holds no rows, or has no such split.
    """
    path = Path(place)
    if path.is_dir():
        return _parts_of_folder(path, split, asked)
    if path.is_file():
        if asked:
            raise UserError(f"{place}@{split}: a file has no splits: name it without @{split}")
        return [place]
    if any(sign in place for sign in "*?["):
        found = [name for name in sorted(glob.glob(place)) if Path(name).suffix.lower() in FILE_KINDS]  # noqa: PTH207
        if asked:
            raise UserError(f"{place}@{split}: a glob has no splits: let its pattern say which files")
        if not found:
            raise UserError(f"{place}: no file matches ({', '.join(FILE_KINDS)})")
        return found
    if _HUB_NAME.fullmatch(place) and path.suffix.lower() not in FILE_KINDS:
        return [place]
    if path.exists():
        raise UserError(f"{place}: is neither a file nor a folder but {_what(path)}: give a file")
    if place.partition(":")[0] in REGISTRY["source"]:
        raise UserError(
            f"{place}: only `observe-r1 ladder` reads public datasets by name: `ladder build` makes rows of one"
        )
    raise MissingDataError(f"{place}: no such file{beside(path, _holds_rows)}")


def _what(path: Path) -> str:
    """Return in words what is at a path that is neither a file nor a folder."""
    return "a pipe" if path.is_fifo() else "a socket" if path.is_socket() else "a device"


def _holds_rows(path: Path) -> bool:
    return path.suffix.lower() in FILE_KINDS or path.is_dir()


def is_saved(folder: Path) -> bool:
    """Return whether `Dataset.save_to_disk` wrote this folder."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def _parts_of_folder(folder: Path, split: str, asked: bool) -> list[str]:
    if (folder / LADDER).is_file() and not asked:
        return [str(folder / LADDER)]
    if is_saved(folder):
        own = _json(folder / "state.json").get("_split")
        if asked and own != split:
            raise UserError(
                f"{folder}@{split}: `save_to_disk` wrote this folder with one split, {own!r}: name no other"
            )
        return [str(folder)]
    if (folder / "dataset_dict.json").is_file():
        by_split = {name: [str(folder / name)] for name in _json(folder / "dataset_dict.json")["splits"]}
        return _of_split(folder, by_split, split)
    for place in (folder, folder / "data"):
        if files := _files(place):
            return _chosen(folder, files, split, asked)
        inner = [path for path in sorted(place.glob("*/")) if path.name in (*_SPLIT_WORDS, split)]
        if by_split := {path.name: [str(file) for file in _files(path)] for path in inner if _files(path)}:
            return _one_kind(folder, _of_split(folder, by_split, split))
    if any(path.suffix.lower() in IMAGE_KINDS for pattern in ("*", "*/*") for path in folder.glob(pattern)):
        raise UserError(
            f"{folder}: a folder of images without questions: add a metadata.jsonl with one row per question, such as "
            '{"file_name": "1.png", "problem": "…", "answer": "…"}'
        )
    raise UserError(f"{folder}: no file of rows in this folder ({', '.join(FILE_KINDS)}): name a file")


def _files(folder: Path) -> list[Path]:
    """Return the files of rows directly in `folder`; in an image folder, the `metadata` file alone."""
    files = sorted(
        p for p in folder.glob("*") if p.suffix.lower() in FILE_KINDS and p.is_file() and p.name not in _NO_ROWS
    )
    return [file for file in files if file.stem == "metadata"] or files


def _chosen(folder: Path, files: list[Path], split: str, asked: bool) -> list[str]:
    """Return the files of a split, or all if no file name tells a split."""
    by_split: dict[str, list[str]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, split), []).append(str(file))
    if not asked and by_split.keys() == {""}:
        return _one_kind(folder, by_split[""])
    return _one_kind(folder, _of_split(folder, by_split, split))


def _one_kind(folder: Path, chosen: list[str]) -> list[str]:
    """Return the files; raise `UserError` if they are of several kinds, which may hold the same rows."""
    kinds = sorted({Path(name).suffix.lower() for name in chosen})
    if len(kinds) > 1:
        raise UserError(
            f"{folder}: holds rows in {' and '.join(kinds)} files: name those to read, such as {folder}/*{kinds[0]}"
        )
    return chosen


def _split_of(file: Path, split: str) -> str:
    """Return the split that a file's name tells; empty if it tells none."""
    if file.stem == split or file.name.startswith(f"{split}-"):
        return split
    shard = _SHARD.fullmatch(file.stem)
    return shard[1] if shard else file.stem if file.stem in _SPLIT_WORDS else ""


def _of_split(folder: Path, by_split: dict[str, list[str]], split: str) -> list[str]:
    if split in by_split:
        return by_split[split]
    raise UserError(
        f"{folder}@{split}: no split {split!r} in this folder: {_choices(folder, sorted(filter(None, by_split)))}"
    )


def _choices(folder: Path, splits: Iterable[str]) -> str:
    names = [f"{folder}@{name}" for name in splits]
    return f"available: {', '.join(names)}" if names else "no file name tells a split: name the folder alone, or a file"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}: save the dataset again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: needs an object: save the dataset again")
    return value
