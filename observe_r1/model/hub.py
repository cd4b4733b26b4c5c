"""Whether a model's name is a folder here or a name on the Hugging Face Hub, told at once."""

from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

from observe_r1.errors import UserError
from observe_r1.files import refuse_lfs_pointer

_PATIENCE = 10.0
"""Seconds in which the Hub has to answer."""


def check_model_path(path: str, setting: str = "model.path") -> None:
    """Raise `UserError`, naming `setting`, where `path` is neither a model's folder nor a Hub name that can be had.

    Left to itself, transformers asks an unreachable Hub again and again, for one file after the other.
    """
    folder, place = Path(path), f"{setting} = {path!r}"
    if folder.is_dir():
        if (folder / "config.yaml").is_file() and (folder / "model").is_dir():
            raise UserError(f"{place}: is a run folder; its model is in {str(folder / 'model')!r}")
        for file in sorted(filter(Path.is_file, folder.iterdir())):
            refuse_lfs_pointer(file)
        return
    first = path.partition("/")[0]
    if path.count("/") != 1 or not first.strip(".~") or Path(first).exists():
        raise UserError(f"{place}: no such folder")
    if isinstance(try_to_load_from_cache(path, "config.json"), str):
        return
    try:
        HfApi().repo_info(path, timeout=_PATIENCE)
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{place}: no such folder, and not to be had from the Hugging Face Hub: {reason}") from error
    except HTTPError as error:
        raise UserError(f"{place}: no such folder, and the Hugging Face Hub cannot be reached: {error}") from error
