"""Where the files of a policy are: a folder, a run, or a repository on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qseq.errors import DataError, RequestError

DESCRIPTION = "policy.json"
WEIGHTS = "model.safetensors"
# Weights, descriptions and, of language models, tokenizers; whatever else a repository holds stays there.
_FETCHED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_OF_TRAINING = ["trainer.json", "optimizer.*", "target.*", "objective.*"]


def locate_policy(source: str | Path) -> Path:
    """The folder that holds `policy.json`.

    A run folder gives its newest checkpoint. A name of the form `owner/name` that is no folder is fetched from the Hub.

    Raises:
        RequestError: there is none.
    """
    path = Path(source)
    if (path / DESCRIPTION).is_file():
        return path
    if (path / "checkpoints").is_dir():
        from qseq.training import latest_checkpoint

        newest = latest_checkpoint(path)
        if newest is None or not (newest / DESCRIPTION).is_file():
            raise RequestError(f"{path}: found a run without a checkpoint, expected a trained one; train it first")
        return newest
    if path.exists():
        raise RequestError(f"{path}: found no {DESCRIPTION}, expected a run or a policy folder")
    parts = str(source).split("/")
    if len(parts) == 2 and all(parts):
        return _from_hub(str(source))
    raise RequestError(f"{path}: found no such folder, expected a run, a policy folder or a Hub repository")


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of `policy.json`. Raises DataError if it is damaged or its weights are missing."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / DESCRIPTION}: cannot be read ({error}), expected the JSON of a policy") from error
    if not isinstance(description, dict) or "kind" not in description:
        raise DataError(f"{folder / DESCRIPTION}: found no 'kind', expected the JSON of a policy")
    if not (folder / WEIGHTS).is_file():
        raise DataError(f"{folder / WEIGHTS}: found no file, expected the weights of the policy")
    return description


def _from_hub(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, allow_patterns=_FETCHED, ignore_patterns=_OF_TRAINING))
    except Exception as error:  # the client's errors share no base class; all mean that nothing was fetched
        raise RequestError(
            f"{repo_id}: found neither a folder nor a Hub repository that can be fetched ({type(error).__name__})"
        ) from error
