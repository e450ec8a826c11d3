"""Algorithm names -> families, imported only when asked for. Adding a family adds a line here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qseq.errors import DataError, RequestError

if TYPE_CHECKING:
    from qseq.policies import Policy

# name: (family, its configuration class, its policy class)
_ALGORITHMS = {
    "q-transformer": ("qseq.robot", "QTransformerConfig", "QTransformerPolicy"),
    "bc": ("qseq.imitation", "CloningConfig", "CloningPolicy"),
    "filtered-bc": ("qseq.imitation", "FilteredCloningConfig", "CloningPolicy"),
    "diffuser": ("qseq.planner", "DiffuserConfig", "DiffuserPolicy"),
    "qrlhf": ("qseq.language", "QRLHFConfig", "LanguagePolicy"),
    "ilql": ("qseq.language", "ILQLConfig", "LanguagePolicy"),
    "lm-bc": ("qseq.language", "LanguageCloningConfig", "LanguagePolicy"),
    "lm-filtered-bc": ("qseq.language", "FilteredLanguageCloningConfig", "LanguagePolicy"),
    "lm-mc": ("qseq.language", "MonteCarloConfig", "LanguagePolicy"),
}


@dataclass(frozen=True)
class Algorithm:
    """One way to learn: how it is configured, trained and acted with."""

    name: str
    config_class: type[Any]
    policy_class: type[Policy]
    family: str

    def train(
        self,
        config: Any,
        *,
        data: Sequence[str],
        run: Path,
        seed: int = 0,
        resume: bool = False,
        label: str | None = None,
    ) -> Path:
        """Train on the data sources into the run folder; returns the final checkpoint.

        `label` is a name for this variant, by which reports tell it from other runs of the algorithm.
        """
        from qseq.training.identity import read_identity, write_identity

        family = import_module(f"{self.family}.algorithm")
        try:
            return cast(Path, family.train(config, data=data, run=run, seed=seed, resume=resume))
        finally:
            # Also of a run that stopped halfway. A refused request leaves no folder to write into, or one that has it.
            main = os.environ.get("RANK", "0") == "0"
            if main and (run / "config.yaml").is_file() and not read_identity(run):
                write_identity(run, algorithm=self.name, data=data, seed=seed, label=label)


def algorithms() -> list[str]:
    """Names of all algorithms."""
    return list(_ALGORITHMS)


def get_algorithm(name: str) -> Algorithm:
    """Raises RequestError for an unknown name."""
    if name not in _ALGORITHMS:
        raise RequestError(f"algorithm: found '{name}', expected one of {', '.join(_ALGORITHMS)}")
    family, config_class, policy_class = _ALGORITHMS[name]
    module = import_module(family)
    return Algorithm(name, getattr(module, config_class), getattr(module, policy_class), family)


def load_policy(source: str | Path, **options: Any) -> Policy:
    """The policy of a run, a policy folder or a Hub repository; `options` are decoding options of its class.

    Raises:
        RequestError: there is none, or it does not take these options.
        DataError: its files are damaged.
    """
    from qseq.policies import locate_policy, read_description
    from qseq.training import read_record

    folder = locate_policy(source)
    if (folder / "trainer.json").is_file():
        # A checkpoint notes a checksum of each of its files: a flipped bit is found before it acts.
        read_record(folder)
    kind = read_description(folder)["kind"]
    if kind not in _ALGORITHMS:
        raise DataError(f"{folder / 'policy.json'}: found kind '{kind}', expected one of {', '.join(_ALGORITHMS)}")
    try:
        return get_algorithm(kind).policy_class.from_pretrained(folder, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise RequestError(f"policy options: a policy of kind '{kind}' does not take them ({error})") from error
