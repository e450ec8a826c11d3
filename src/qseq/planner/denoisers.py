"""Networks that take the noise off plans, behind one interface.

Legend: B plans, H planned states, X entries of one planned state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qseq.errors import RequestError
from qseq.planner.config import DenoiserConfig
from qseq.planner.transformer import PlanTransformer


class Denoiser(nn.Module, ABC):
    """Noisy plans and their level of noise -> the clean plans, or the noise, whichever it was trained for."""

    @abstractmethod
    def forward(
        self, plans_BHX: Tensor, levels_B: Tensor, known_BH: Tensor | None = None, inside_BH: Tensor | None = None
    ) -> Tensor:
        """[B, H, X] -> [B, H, X].

        Args:
            levels_B: int64 [B], or [1] for all.
            known_BH: True for states that are given.
            inside_BH: False for padding, which must not influence what is inside.
        """

    def require_horizon(self, horizon: int) -> None:
        """Raise RequestError for a horizon it cannot take, naming the nearest that it can."""
        if horizon < 1:
            raise RequestError(f"horizon: found {horizon}, expected at least 1")


class TransformerDenoiser(Denoiser):
    """A diffusion transformer; takes any horizon. A horizon longer than in training is beyond what it has learnt."""

    def __init__(self, size: int, config: DenoiserConfig) -> None:
        super().__init__()
        if config.dim % config.heads:
            raise RequestError(f"denoiser.dim: found {config.dim}, expected a multiple of {config.heads} heads")
        self.body = PlanTransformer(
            size, dim=config.dim, depth=config.depth, heads=config.heads, frequencies=config.frequencies
        )
        self.head = nn.Linear(config.dim, size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, plans_BHX: Tensor, levels_B: Tensor, known_BH: Tensor | None = None, inside_BH: Tensor | None = None
    ) -> Tensor:
        features_BHD = self.body(plans_BHX, levels_B, known_BH=known_BH, inside_BH=inside_BH)
        out: Tensor = self.head(functional.layer_norm(features_BHD, features_BHD.shape[-1:]))
        return out


class UNetDenoiser(Denoiser):
    """The temporal U-Net of diffusers (`UNet1DModel`); its horizons are multiples of 2 to the number of halvings.

    It is not told which states are known, as they are held by inpainting; padding is shown to it as pure noise.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    @classmethod
    def of_size(cls, size: int, config: DenoiserConfig) -> UNetDenoiser:
        """An untrained one for planned states of X entries."""
        import diffusers

        library: Any = diffusers  # untyped

        base = max(8, config.dim // 3 // 8 * 8)
        channels = tuple(base * 2**level for level in range(config.depth))
        unet: nn.Module = library.UNet1DModel(
            sample_size=0,
            in_channels=size,
            out_channels=size,
            time_embedding_type="positional",
            use_timestep_embedding=True,
            flip_sin_to_cos=False,
            freq_shift=1.0,
            down_block_types=("DownResnetBlock1D",) * config.depth,
            mid_block_type="MidResTemporalBlock1D",
            up_block_types=("UpResnetBlock1D",) * (config.depth - 1),
            out_block_type="OutConv1DBlock",
            block_out_channels=channels,
            act_fn="mish",
            norm_num_groups=8,
            layers_per_block=1,
        )
        return cls(unet)

    @property
    def settings(self) -> Any:
        """The configuration of diffusers' model."""
        return self.unet.config

    @property
    def multiple(self) -> int:
        """Horizons are multiples of this."""
        return int(2 ** (len(self.settings.block_out_channels) - 1))

    def require_horizon(self, horizon: int) -> None:
        super().require_horizon(horizon)
        if horizon % self.multiple:
            nearest = max(self.multiple, round(horizon / self.multiple) * self.multiple)
            raise RequestError(
                f"horizon: found {horizon}, expected a multiple of {self.multiple} for this U-Net of "
                f"{len(self.settings.block_out_channels)} resolutions; the nearest is {nearest}"
            )

    def forward(
        self, plans_BHX: Tensor, levels_B: Tensor, known_BH: Tensor | None = None, inside_BH: Tensor | None = None
    ) -> Tensor:
        if inside_BH is not None:
            plans_BHX = torch.where(inside_BH.unsqueeze(-1), plans_BHX, torch.randn_like(plans_BHX))
        levels_B = levels_B.expand(len(plans_BHX))
        out: Tensor = self.unet(plans_BHX.transpose(1, 2), levels_B, return_dict=False)[0]
        return out.transpose(1, 2)


def make_denoiser(size: int, config: DenoiserConfig) -> Denoiser:
    """The untrained denoiser of a configuration, for planned states of X entries."""
    return TransformerDenoiser(size, config) if config.kind == "transformer" else UNetDenoiser.of_size(size, config)
