"""From a folder to a repository on the Hugging Face Hub."""

from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from observe_r1.errors import UserError

_OURS = {
    "model": ["*.safetensors", "*.safetensors.index.json", "adapter_config.json"],
    "dataset": ["data/*.parquet", "figures/*.png"],
}
"""Of a repository that exists, what an earlier upload may have left: a shorter ladder has fewer files, and to whoever
loads the dataset the rest would be part of it."""


def check_repo_name(name: str, setting: str) -> None:
    """Raise `UserError` unless `name` is a repository's on the Hub, `USER/NAME`."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{setting} = {name!r}: {error}") from error
    if "/" not in name:
        raise UserError(f"{setting} = {name!r}: whose is it? Give USER/NAME")


def upload(
    name: str, folder: Path, setting: str, *, kind: Literal["model", "dataset"], private: bool, stays: bool
) -> str:
    """Upload a folder to the Hub, with the token that `hf auth login` or HF_TOKEN gives.

    All its files arrive in one commit, or none does.

    Args:
        name: On the Hub, `USER/NAME`.
        folder: What is uploaded.
        setting: That gave the name, with which the error begins.
        kind: Of the repository.
        private: Whether a repository that does not exist yet is made private; others stay as they are.
        stays: Whether the folder is there afterwards.

    Returns:
        Its address there, and who sees it.

    Raises:
        UserError: The Hub cannot be reached, or refuses it.
    """
    disable_progress_bars()  # the panel has the terminal
    api = HfApi()
    arrived = "nothing was uploaded"
    try:
        address = str(api.create_repo(name, repo_type=kind, private=private, exist_ok=True))
        arrived = f"no file has arrived at {address}"
        before = api.repo_info(name, repo_type=kind)
        try:
            api.upload_folder(
                repo_id=name,
                repo_type=kind,
                folder_path=folder,
                commit_message="Made by Observe-R1",
                delete_patterns=_OURS[kind],
            )
        except Exception:
            arrived = _what_arrived(api, name, kind, address, before.sha)
            raise
    except (HFValidationError, HTTPError, OSError, RuntimeError, ValueError) as error:
        place = f"; it is in {folder}" if stays else ""
        raise UserError(f"{setting} = {name!r}: {_reason(error)}; {arrived}{place}") from error
    return f"{address}, which is {'private' if before.private else 'public'}"


def _what_arrived(api: HfApi, name: str, kind: str, address: str, before: str | None) -> str:
    """Return what an upload that failed has left: its last answer may be all that was lost."""
    try:
        now = api.repo_info(name, repo_type=kind).sha
    except (HTTPError, OSError):
        return f"whether the files have arrived at {address} is not known: look there"
    return f"no file has arrived at {address}" if now == before else f"all files have arrived at {address}"


def _reason(error: Exception) -> str:
    """Return in one line why the Hub has not taken it; raise `error` where it is not about that."""
    if isinstance(error, RuntimeError | ValueError) and not isinstance(error, HFValidationError):
        if not isinstance(error.__cause__, HTTPError | OSError):
            raise error
        return f"{str(error).strip().splitlines()[0]} {_reason(error.__cause__)}"
    if not isinstance(error, HfHubHTTPError):
        return str(error).strip().splitlines()[0]
    answer = error.response
    said = f": {error.server_message.splitlines()[0]}" if error.server_message else ""
    hint = " (`hf auth login` signs in; the token must allow to write)" if answer.status_code in (401, 403) else ""
    return f"the Hub answers {answer.status_code} {answer.reason_phrase}{said}{hint}"
