"""An exported folder onto the hub, in one commit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scfm.imports.optional import need

log = logging.getLogger(__name__)


class PushError(Exception):
    """The upload did not happen; the folder on disk is whole."""


def require_name(name: str) -> None:
    """Refuse what is no name of a repository, before anything is written.

    Raises:
        ValueError: it is not ``USER/NAME``.
    """
    user, _, repository = name.partition("/")
    if not user or not repository or "/" in repository:
        raise ValueError(f"push={name}; expected the name of a repository on the hub, push=USER/NAME")


def push_folder(folder: Path, name: str, files: Sequence[str]) -> str:
    """Upload the files of an export as one commit; a repository that is not there is made, private.

    Args:
        folder: exported.
        name: ``USER/NAME``.
        files: names of the files that the export wrote; nothing else is sent.

    Returns:
        The address of the commit.

    Raises:
        ModuleNotFoundError: huggingface_hub is not installed.
        PushError: the machine is offline by its settings, no token is there, or the hub does not answer or refuses.
    """
    hub: Any = need("huggingface_hub", '"scfm-framework[hub]"')
    whole = f"{folder} is whole on this disk and was not uploaded"
    if hub.constants.HF_HUB_OFFLINE:
        raise PushError(f"{whole}: HF_HUB_OFFLINE is set; unset it to push to {name}")
    if hub.get_token() is None:
        raise PushError(f"{whole}: there is no token of the hub; log in with `hf auth login`, or set HF_TOKEN")
    api = hub.HfApi()
    try:
        api.create_repo(name, repo_type="model", private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            repo_type="model",
            folder_path=str(folder),
            allow_patterns=list(files),
            commit_message="Upload an export of scfm",
        )
    except Exception as error:  # of the network, of the hub, of its client: the advice is the same
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PushError(f"{whole}: the hub did not take it ({reason}); push to {name} again later") from error
    log.info("Pushed to %s; a new repository is private until you change that on the hub.", commit.commit_url)
    return str(commit.commit_url)
