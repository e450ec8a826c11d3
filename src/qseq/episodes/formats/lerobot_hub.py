"""LeRobot data sets by the name of their repository on the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from qseq.episodes.formats.lerobot_layout import INFO, VERSION
from qseq.errors import RequestError


def download(repository: str) -> Path:
    """The folder of a repository such as "lerobot/pusht": where the lerobot package keeps it, else the hub's cache.

    Raises:
        RequestError: it is not on this machine and cannot be fetched.
    """
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    kept = Path(os.environ.get("HF_LEROBOT_HOME") or home / "lerobot") / repository
    if (kept / INFO).is_file():
        return kept
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    try:
        try:
            folder = snapshot_download(repository, repo_type="dataset", revision=VERSION)
        except RevisionNotFoundError:  # not tagged with the version it was written in
            folder = snapshot_download(repository, repo_type="dataset")
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"lerobot:{repository}: found no folder of that name, and the hub's data set cannot be fetched ({reason})"
        ) from error
    return Path(folder)
