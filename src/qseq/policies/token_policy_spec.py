"""Everything but the weights of a policy of action tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qseq.actions import ActionTokenizer
from qseq.configuration import from_dict, to_dict
from qseq.episodes import PAST_ACTIONS, ActionSpace, PastActions
from qseq.networks.action_network import NetworkConfig
from qseq.networks.observation import FieldLayout
from qseq.observations import is_image
from qseq.policies.files import Weights, checked_weights


@dataclass(frozen=True, kw_only=True)
class TokenPolicySpec:
    """Everything but the weights: enough to rebuild the network and act."""

    network: NetworkConfig
    fields: dict[str, tuple[int, ...]]
    """Observation field -> shape of one frame."""
    history: int
    tokenizer: ActionTokenizer
    action_space: dict[str, Any]
    extra: dict[str, Any]
    """What one family needs besides, as plain data."""
    first_frame: bool = False
    """The oldest frame of the history is the episode's first."""
    default_instruction: str = ""
    """Told to the network when nobody says anything: the instruction of the data, where they hold but one."""
    needs_instruction: bool = False
    """It was always told what to do in training, and not always the same."""
    crop: int = 0
    """Side of the square in the middle of cameras' frames that the network sees; 0 shows it all."""
    weights: Weights = "float32"
    """How the weights of linear layers are kept; see `qseq.networks.quantised`."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "network": to_dict(self.network),
            "fields": {name: list(shape) for name, shape in self.fields.items()},
            "history": self.history,
            "first_frame": self.first_frame,
            "tokenizer": self.tokenizer.to_dict(),
            "action_space": self.action_space,
            "extra": self.extra,
            "default_instruction": self.default_instruction,
            "needs_instruction": self.needs_instruction,
            "crop": self.crop,
            "weights": self.weights,
        }

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> TokenPolicySpec:
        return TokenPolicySpec(
            network=from_dict(NetworkConfig, description["network"]),
            fields={name: tuple(shape) for name, shape in description["fields"].items()},
            history=int(description["history"]),
            first_frame=bool(description["first_frame"]),
            tokenizer=ActionTokenizer.from_dict(description["tokenizer"]),
            action_space=dict(description["action_space"]),
            extra=dict(description["extra"]),
            default_instruction=str(description["default_instruction"]),
            needs_instruction=bool(description["needs_instruction"]),
            crop=int(description["crop"]),
            weights=checked_weights(description.get("weights", "float32")),
        )

    @property
    def past_actions(self) -> PastActions | None:
        """How the network is shown what was done before, if it is."""
        if PAST_ACTIONS not in self.fields:
            return None
        return PastActions(ActionSpace.from_json(self.action_space), self.fields[PAST_ACTIONS][0])

    @property
    def shown_fields(self) -> dict[str, tuple[int, ...]]:
        """The fields that an environment shows; the policy remembers its actions itself."""
        return {name: shape for name, shape in self.fields.items() if name != PAST_ACTIONS}

    def blank_layouts(self) -> dict[str, FieldLayout]:
        """What the network sees, with statistics that the weights will overwrite."""
        return {name: FieldLayout(shape=self._seen(shape)) for name, shape in self.fields.items()}

    def _seen(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], self.crop, self.crop) if self.crop and is_image(shape) else shape
