"""From a model's name, a folder or a repository on the Hugging Face Hub, to the folder that holds its checkpoint."""

from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import get_session

from observe_r1.errors import UserError
from observe_r1.model.checkpoint import check_files, stored_weights
from observe_r1.registry import beside

_PATIENCE = 10.0
"""Seconds in which the Hub has to answer."""
_PROCESSOR = ["*.json", "*.jinja", "*.txt", "*.model"]
_CODE, _WEIGHTS = ["*.py"], ["*.safetensors"]


def check_model_path(path: str, setting: str = "model.path", *, trust_code: bool = False) -> None:
    """Check that `path` is a model. A folder's files are checked, all but the weights' values; nothing is fetched.

    Args:
        path: Folder or Hub name.
        setting: Its name, with which the error begins.
        trust_code: Whether Python code that ships in the checkpoint may be run.

    Raises:
        UserError: It is neither a sound folder nor a name that the Hub has.
    """
    place = f"{setting} = {path!r}"
    if is_model_folder(path, place):
        check_files(Path(path), place, trust_code=trust_code)
        for _ in stored_weights(Path(path), place):
            pass


def hub_answers() -> bool:
    """Whether the Hub can be reached, whatever it says."""
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except (HTTPError, OSError):  # where HF_HUB_OFFLINE is set, it is an OSError
        return False
    return True


def checkpoint_folder(path: str, *, trust_code: bool, weights: bool) -> Path:
    """Return the folder that holds a checkpoint, all its files but the weights checked; what the Hub has is fetched.

    Args:
        path: Folder or Hub name.
        trust_code: Whether Python code that ships in the checkpoint may be run.
        weights: Whether to fetch the weights, too.

    Raises:
        UserError: As `check_model_path`, or the Hub cannot be reached.
    """
    place = f"model.path = {path!r}"
    folder = Path(path)
    if not is_model_folder(path, place):
        wanted = _PROCESSOR + _CODE * trust_code + _WEIGHTS * weights
        try:
            folder = Path(snapshot_download(path, allow_patterns=wanted, ignore_patterns="*/*", etag_timeout=_PATIENCE))
        except (HfHubHTTPError, HTTPError, LocalEntryNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{place}: cannot be fetched from the Hugging Face Hub: {reason}") from error
    check_files(folder, place, trust_code=trust_code)
    return folder


def is_model_folder(path: str, place: str) -> bool:
    """Whether `path` is a folder; otherwise it is a name that the Hub, asked once, or its cache has.

    Left to itself, transformers asks an unreachable Hub again and again, for one file after the other.

    Args:
        path: Folder or Hub name.
        place: What errors begin with.

    Raises:
        UserError: It is neither.
    """
    folder = Path(path)
    if folder.is_dir():
        if (folder / "config.yaml").is_file() and (folder / "model").is_dir():
            raise UserError(f"{place}: is a run folder; its model is in {str(folder / 'model')!r}")
        return True
    if folder.exists():
        raise UserError(f"{place}: is a file; give the folder that holds the model, {str(folder.parent)!r}?")
    meant = beside(folder, lambda each: (each / "config.json").is_file())
    first = path.partition("/")[0]
    if path.count("/") != 1 or not first.strip(".~") or Path(first).exists():
        raise UserError(f"{place}: no such folder{meant}")
    if isinstance(try_to_load_from_cache(path, "config.json"), str):
        return False
    try:
        HfApi().repo_info(path, timeout=_PATIENCE)
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{place}: no such folder, and not available from the Hugging Face Hub: {reason}{meant}"
        ) from error
    except HTTPError as error:
        raise UserError(
            f"{place}: no such folder, and the Hugging Face Hub cannot be reached: {error}{meant}"
        ) from error
    return False
