"""What every trained run gives you. Evaluation, collection, serving and reports see only this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qseq.observations import Observation

if TYPE_CHECKING:
    from qseq.policies.watching import WatchedDecisions


class Policy(ABC):
    """Acts on observations; remembers what it needs for each environment apart."""

    kind: ClassVar[str]
    """Name under which the registry finds the class."""

    decisions_shown: WatchedDecisions | None = None
    """Values of the decisions that somebody looks at; None where actions are not chosen by values of bins."""

    @property
    @abstractmethod
    def observation_fields(self) -> dict[str, tuple[int, ...]]:
        """Fields it reads and the shape of one frame of each."""

    @property
    @abstractmethod
    def action_space(self) -> dict[str, Any]:
        """JSON form of the space its actions lie in."""

    @property
    def takes_instructions(self) -> bool:
        """Whether it may be told what to do."""
        return True

    @property
    def history(self) -> int:
        """Frames it looks at: the newest, and those before it."""
        return 1

    @property
    def horizon(self) -> int:
        """Actions of one decision; more than 1 where it decides on chunks of actions."""
        return 1

    @abstractmethod
    def act(
        self,
        observation: Observation,
        instruction: str | Sequence[str] | None = None,
        *,
        environment_ids: Sequence[int] | None = None,
    ) -> np.ndarray:
        """The action for one observation, or a batch of actions for a batch (every field with one dimension more).

        Args:
            observation: the newest frame of every field; a bare array means the field "state".
            instruction: one text for all, or one for each row.
            environment_ids: which environment each row belongs to; rows are 0, 1, ... by default.

        Raises:
            RequestError: a field is missing, has another shape or is no image where one is read; no instruction where
                one is needed, or one where none is taken.
        """

    @abstractmethod
    def reset(self, environment_ids: Sequence[int] | None = None) -> None:
        """Forget these environments (all by default): their next observation starts an episode."""

    def pending(self, environment_id: int) -> list[np.ndarray]:
        """Actions already decided on for an environment and not given by `act` yet: the rest of a chunk."""
        return []

    def drop_pending(self, environment_ids: Sequence[int]) -> None:  # noqa: B027 (nothing is pending without chunks)
        """Decide anew in these environments, though a chunk is not over; they go on remembering what they showed."""

    def adopt(self, other: Policy) -> None:  # noqa: B027 (to start anew is a fine default)
        """Go on with the episodes of another checkpoint: remember what it does, but not what its weights made of it."""

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Fix the random choices of decoding from here on."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write `policy.json` and `model.safetensors` into a folder."""

    @classmethod
    @abstractmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Policy:
        """Load from a folder, a run folder or a Hugging Face Hub repository. No stored code is executed.

        Raises:
            RequestError: there is no policy at `source`.
            DataError: its files are damaged.
        """

    def push_to_hub(self, repo_id: str, *, private: bool = True) -> str:
        """Upload what `save_pretrained` writes; returns the commit's address. `qseq.push_to_hub` adds a model card."""
        import tempfile

        from qseq.policies.hub import upload_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(folder, repo_id, private=private)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What it is, as plain data: kind, sizes, decoding."""
