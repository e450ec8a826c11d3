"""A trained policy passed on: a folder with a model card, or a repository on the Hugging Face Hub.

`qseq.load_policy` loads either. What is shared is what acting needs; no state of the training, no data, no pickles.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from qseq.errors import DataError
from qseq.export.card import CardFacts, checked_license, model_card, public_source
from qseq.files import new_folder, write_atomic
from qseq.policies.hub import upload_folder
from qseq.registry import load_policy
from qseq.robot import QTransformerPolicy
from qseq.training.identity import read_identity

CARD, SETTINGS = "README.md", "config.yaml"


def write_shared(
    source: str | Path, folder: str | Path, *, license: str | None = None, name: str | None = None, **options: Any
) -> list[Path]:
    """Write policy, settings and model card into a new folder; returns what was written.

    Args:
        source: a run, a checkpoint or a policy folder.
        folder: must not exist, or be empty.
        license: an identifier of the Hub, such as "mit".
        name: of the card and in its example; by default the folder's.
        options: of loading the policy, such as weights="int8".

    Raises:
        RequestError: there is no policy, or something is in the way.
    """
    folder = Path(folder)
    license = checked_license(license)
    with new_folder(folder) as temporary:
        _write(Path(source), temporary, name or folder.name, license, options)
    return sorted(folder.iterdir())


def push_to_hub(
    source: str | Path, repo_id: str, *, license: str | None = None, private: bool = True, **options: Any
) -> str:
    """Upload what `write_shared` writes; returns the commit's address. A repository that exists stays as visible as it
    is."""
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "shared"
        write_shared(source, shared, license=license, name=repo_id, **options)
        return upload_folder(shared, repo_id, private=private)


def _write(source: Path, folder: Path, name: str, license: str | None, options: dict[str, Any]) -> None:
    policy = load_policy(source, **options)
    run = _run_of(source)
    identity = read_identity(run) if run is not None else {}
    settings = (run / SETTINGS).read_text(encoding="utf-8") if run is not None else ""
    facts = CardFacts(
        name=name,
        description=policy.describe(),
        algorithm=identity.get("algorithm"),
        seed=identity.get("seed"),
        data=[public_source(one) for one in identity.get("data", ())],
        evaluations=_evaluations(run) if run is not None else [],
        settings=settings,
        license=license,
    )
    policy.save_for_acting(folder) if isinstance(policy, QTransformerPolicy) else policy.save_pretrained(folder)
    write_atomic(folder / CARD, model_card(facts))
    if settings:
        write_atomic(folder / SETTINGS, settings)


def _run_of(source: Path) -> Path | None:
    """The run that a source is, or is a checkpoint of."""
    run = source.absolute().parents[1] if source.absolute().parent.name == "checkpoints" else source
    return run if (run / "checkpoints").is_dir() and (run / SETTINGS).is_file() else None


def _evaluations(run: Path) -> list[dict[str, Any]]:
    """Results of `qseq evaluate`, each once. Raises DataError if one cannot be read."""
    results: list[dict[str, Any]] = []
    for path in sorted((run / "evaluations").glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            result["env"], result["episodes"], result["mean_return"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: cannot be read as a result of 'qseq evaluate' ({error!r}); delete it") from error
        if result not in results:
            results.append(result)
    return results
