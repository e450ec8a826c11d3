"""A camera's frames -> tokens the transformer can read.

Legend: B batch, F frames of history, C channels, H x W pixels, S tokens of a frame, D width.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from qseq.networks.text import Instruction
from qseq.networks.vision import FiLM, MaxViT, TokenLearner, VisionConfig, VisionTower, make_tower

_SIZE_OF_PLACES = 0.5
"""Half the size of what a tower sees there: both can be looked for."""
_SHARPNESS = 5.0
"""Each token begins by looking at a few places of its own; see `TokenLearner`."""


class CameraEncoder(nn.Module):
    """A tower conditioned on the instruction, then TokenLearner (RT-1, Brohan et al. 2022) or all positions as tokens.

    Args:
        shape: of a frame, (C, H, W).
        dim: D, also of the instruction's summary.
        conditional: whether there are instructions; without, towers are built without conditioning.
        tower: used in the place of a new one. A MaxViT that takes no instructions is made to, and loses its class head;
            another module that takes none gets FiLM after its map.

    Raises:
        ValueError: a side of the frame that the tower cannot take, or a tower of another size of instruction.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dim: int,
        config: VisionConfig,
        *,
        conditional: bool = True,
        tower: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _, height, width = shape
        self.tower = make_tower(config, shape, dim if conditional else None) if tower is None else tower
        self.film: FiLM | None = None
        if tower is not None:
            self._adopt(dim, conditional)
        positions = math.prod(self._tower.feature_size(height, width))
        self.places_PD: nn.Parameter | None = None
        if config.learn_places:
            self.places_PD = nn.Parameter(torch.randn(positions, self._tower.out_dim) * _SIZE_OF_PLACES)
        self.token_learner: TokenLearner | None = None
        if config.tokens:
            self.token_learner = TokenLearner(
                self._tower.out_dim,
                num_output_tokens=config.tokens,
                ff_mult=config.token_learner_ff_mult,
                num_layers=config.token_learner_layers,
                condition_dim=dim if conditional else None,
                initial_sharpness=_SHARPNESS if config.learn_places else 1.0,
            )
        self.project = nn.Linear(self._tower.out_dim, dim)
        self.mix: nn.Sequential | None = None
        if config.condition_on_state:
            # At first the instruction alone decides: the state, which differs from frame to frame, would drown it.
            last = nn.Linear(dim, dim)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.mix = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), last)
        self.tokens = config.tokens or positions

    def forward(self, frames_BFCHW: Tensor, instruction: Instruction, state_BFD: Tensor | None = None) -> Tensor:
        """`[B, F, C, H, W]`, uint8 or floating in [0, 1] -> `[B, F, S, D]`.

        `state_BFD` embeds the other fields of each frame, for a camera with `config.condition_on_state`.
        """
        conditions_ND = self._conditions(frames_BFCHW, instruction, state_BFD)
        maps_NDhw = self._maps(frames_BFCHW, conditions_ND)
        if self.token_learner is None:
            tokens_NSD = maps_NDhw.flatten(2).transpose(1, 2)
        else:
            tokens_NSD = self.token_learner(maps_NDhw, conditions_ND)
        out: Tensor = self.project(tokens_NSD)
        return out.view(*frames_BFCHW.shape[:2], *out.shape[1:])

    def places(self, frames_BFCHW: Tensor, instruction: Instruction, state_BFD: Tensor | None = None) -> Tensor:
        """How much each token takes of each position of the tower's map, `[B, F, S, h, w]`; each adds up to one."""
        conditions_ND = self._conditions(frames_BFCHW, instruction, state_BFD)
        maps_NDhw = self._maps(frames_BFCHW, conditions_ND)
        if self.token_learner is None:
            weights_NSP = torch.eye(self.tokens, device=maps_NDhw.device).expand(len(maps_NDhw), -1, -1)
        else:
            weights_NSP = self.token_learner.weights(maps_NDhw, conditions_ND)
        return weights_NSP.view(*frames_BFCHW.shape[:2], -1, *maps_NDhw.shape[2:])

    def _conditions(self, frames_BFCHW: Tensor, instruction: Instruction, state_BFD: Tensor | None) -> Tensor:
        """What conditions each frame, `[B * F, D]`: the instruction, and what it means in the frame's state."""
        summary_BFD = instruction.summary_BD[:, None].expand(-1, frames_BFCHW.shape[1], -1)
        if self.mix is None or state_BFD is None:
            return summary_BFD.flatten(0, 1)
        mixed: Tensor = summary_BFD + self.mix(summary_BFD + state_BFD)
        return mixed.flatten(0, 1)

    def _maps(self, frames_BFCHW: Tensor, conditions_ND: Tensor) -> Tensor:
        """Feature maps, one for each frame."""
        conditions = conditions_ND if self._tower.condition_dim is not None else None
        maps: Tensor = self.tower(frames_BFCHW.flatten(0, 1), conditions, return_embeddings=True)
        maps = maps if self.film is None else self.film(maps, conditions_ND)
        if self.places_PD is None:
            return maps
        places_Dhw = self.places_PD.T.reshape(maps.shape[1:])
        return maps + places_Dhw.to(maps.dtype)

    @property
    def _tower(self) -> VisionTower:
        return cast(VisionTower, self.tower)

    def _adopt(self, dim: int, conditional: bool) -> None:
        """Fit a tower that was built elsewhere to this network."""
        missing = [name for name in ("out_dim", "condition_dim", "feature_size") if not hasattr(self.tower, name)]
        if missing:
            raise ValueError(
                f"the tower {type(self.tower).__name__} has no '{missing[0]}', expected the interface of VisionTower"
            )
        if isinstance(self.tower, MaxViT):
            self.tower.head = None
            if conditional:
                self.tower.condition_on(dim)
        elif conditional and self._tower.condition_dim is None:
            self.film = FiLM(dim, self._tower.out_dim)
        if self._tower.condition_dim not in (None, dim):
            raise ValueError(
                f"the tower reads instructions of size {self._tower.condition_dim}, expected {dim}, the network's dim"
            )
        if not conditional and self._tower.condition_dim is not None:
            raise ValueError("the tower reads instructions, expected one built without condition_dim: there are none")
