"""Folders of policies to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from qseq.errors import RequestError


def upload_folder(folder: str | Path, repo_id: str, *, private: bool = True) -> str:
    """Upload a folder as it is; returns the commit's address. A repository that is missing is made.

    Raises:
        RequestError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder)))
    except Exception as error:  # the client's errors share no base class
        raise RequestError(
            f"{repo_id}: the Hub took no upload ({type(error).__name__}: {str(error).splitlines()[0][:160]}); "
            "log in with 'hf auth login', or share to a folder"
        ) from error
