"""From a folder to a repository on the Hugging Face Hub."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars, validate_repo_id

from observe_r1.errors import UserError

_OURS = {
    "model": ["*.safetensors", "*.safetensors.index.json", "adapter_config.json"],
    "dataset": ["data/*.parquet", "figures/*.png"],
}
"""Of a repository that exists, what an earlier upload may have left: a shorter ladder has fewer files, and to whoever
loads the dataset the rest would be part of it."""
_FAILURES = (HFValidationError, HTTPError, OSError, RuntimeError, ValueError)
"""What the client raises when an upload fails."""


def check_repo_name(name: str, setting: str) -> None:
    """Raise `UserError` unless `name` is a repository's on the Hub, `USER/NAME`."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{setting} = {name!r}: {error}") from error
    if "/" not in name:
        raise UserError(f"{setting} = {name!r}: whose is it? Give USER/NAME")


def upload(
    name: str,
    folder: Path,
    setting: str,
    *,
    kind: Literal["model", "dataset"],
    private: bool,
    begin: Callable[[str], None],
) -> str:
    """Upload a folder to the Hub, with the token that `hf auth login` or HF_TOKEN gives.

    All its files arrive in one commit, or none does. On a terminal the client draws its own bars meanwhile.

    Args:
        name: On the Hub, `USER/NAME`.
        folder: What is uploaded. The error says how to upload it later, so it must outlive this.
        setting: That gave the name, with which the error begins.
        kind: Of the repository.
        private: Whether a repository that does not exist yet is made private; others stay as they are.
        begin: Is told in words what is uploaded, just before the first file; it has to leave a terminal to the bars.

    Returns:
        Its address there, and who sees it.

    Raises:
        UserError: The Hub cannot be reached, or refuses it.
    """
    bars = sys.stderr.isatty() and not constants.HF_HUB_DISABLE_PROGRESS_BARS  # some would fill a log
    (enable_progress_bars if bars else disable_progress_bars)()  # transformers has disabled them, too
    api = HfApi()
    arrived = "nothing was uploaded"
    try:
        address = str(api.create_repo(name, repo_type=kind, private=private, exist_ok=True))
        arrived = f"no file has arrived at {address}"
        before = api.repo_info(name, repo_type=kind)
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        begin(f"uploading {len(sizes):,} files ({sum(sizes) / 1e6:,.1f} MB) to {name}")
        try:
            api.upload_folder(
                repo_id=name,
                repo_type=kind,
                folder_path=folder,
                commit_message="Made by Observe-R1",
                delete_patterns=_OURS[kind],
            )
        except _FAILURES:
            # The last answer may be all that was lost: then everything is there.
            now = _commit(api, name, kind)
            if now is None:
                arrived = f"whether the files have arrived at {address} is not known: look there"
            if now in (None, before.sha):
                raise
    except _FAILURES as error:
        kept = f"the finished {kind} is in {folder}: `{_later(name, folder, kind, private)}` uploads it later"
        raise UserError(f"{setting} = {name!r}: {_reason(error)}; {arrived}; {kept}") from error
    sys.stderr.flush()  # the bars' last line break
    return f"{address}, which is {'private' if before.private else 'public'}"


def _commit(api: HfApi, name: str, kind: str) -> str | None:
    """Return the newest commit of a repository, None if the Hub does not say."""
    try:
        return api.repo_info(name, repo_type=kind).sha
    except (HTTPError, OSError):
        return None


def _later(name: str, folder: Path, kind: str, private: bool) -> str:
    """Return the command of `huggingface_hub` that uploads the folder as `upload` does."""
    deleted = [word for pattern in _OURS[kind] for word in ("--delete", pattern)]
    words = ["hf", "upload", name, str(folder.absolute()), ".", "--repo-type", kind, *["--private"] * private, *deleted]
    return shlex.join(words)


def _reason(error: Exception) -> str:
    """Return in one line why the Hub has not taken it; raise `error` where it is not about that."""
    if isinstance(error, RuntimeError | ValueError) and not isinstance(error, HFValidationError):
        if not isinstance(error.__cause__, HTTPError | OSError):
            raise error
        return f"{str(error).strip().splitlines()[0]} {_reason(error.__cause__)}"
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hugging Face Hub cannot be reached, as HF_HUB_OFFLINE is set"
    if not isinstance(error, HfHubHTTPError):
        said = str(error).strip().partition("\n")[0]
        return f"the Hugging Face Hub cannot be reached ({said})" if isinstance(error, HTTPError) else said
    answer = error.response
    said = f": {error.server_message.splitlines()[0]}" if error.server_message else ""
    hint = " (`hf auth login` signs in; the token must allow to write)" if answer.status_code in (401, 403) else ""
    return f"the Hub answers {answer.status_code} {answer.reason_phrase}{said}{hint}"
