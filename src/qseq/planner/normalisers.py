"""Each dimension of states and actions brought to a common scale, and back.

Legend: N samples, D dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from qseq.errors import DataError, RequestError

NormaliserKind = Literal["gaussian", "limits", "quantile"]

# Spreads below this share of the values' size are rounding: such a dimension counts as constant.
_ROUNDING = 1e-6


class Normaliser(nn.Module):
    """`(x - offset) / scale`, dimension by dimension; both are kept with the weights.

    Computed in float64, so that `denormalise(normalise(x))` is x to float32's precision also far from 0.

    Args:
        offset_D, scale_D: one number a dimension.

    Raises:
        RequestError: they are not finite, of different sizes, or a scale is not positive.
    """

    offset_D: Tensor
    scale_D: Tensor

    def __init__(self, offset_D: Tensor, scale_D: Tensor) -> None:
        super().__init__()
        offset_D, scale_D = offset_D.double(), scale_D.double()
        if offset_D.ndim != 1 or offset_D.shape != scale_D.shape:
            raise RequestError(
                f"normaliser: found offsets {list(offset_D.shape)} and scales {list(scale_D.shape)}, "
                "expected one number a dimension of each"
            )
        if not (offset_D.isfinite().all() and scale_D.isfinite().all() and (scale_D > 0).all()):
            raise RequestError("normaliser: found an offset or scale that is not finite or not positive")
        self.register_buffer("offset_D", offset_D)
        self.register_buffer("scale_D", scale_D)

    @classmethod
    def identity(cls, size: int) -> Normaliser:
        """The one that changes nothing, also to be filled by weights."""
        return cls(torch.zeros(size), torch.ones(size))

    @classmethod
    def fit(cls, samples_ND: Tensor, kind: NormaliserKind = "gaussian") -> Normaliser:
        """The normaliser of some samples.

        - "gaussian": mean 0 and standard deviation 1.
        - "limits": the least and the greatest value become -1 and 1.
        - "quantile": the quantiles at 1 and 99 percent become -1 and 1; what lies beyond is kept, not clipped.

        A constant dimension is only moved to 0: dividing by its spread would blow rounding up.

        Raises:
            DataError: there are no samples, or one is not finite.
            RequestError: there is no such kind.
        """
        samples_ND = samples_ND.double()
        if not len(samples_ND):
            raise DataError("normaliser: found no sample, expected at least one")
        if not samples_ND.isfinite().all():
            row, dimension = (int(n) for n in (~samples_ND.isfinite()).nonzero()[0])
            raise DataError(
                f"normaliser: found {samples_ND[row, dimension].item()} in dimension {dimension} of sample {row}, "
                "expected finite values; check the data with 'qseq inspect'"
            )
        if kind == "gaussian":
            offset_D, scale_D = samples_ND.mean(0), samples_ND.std(0, correction=0)
        elif kind == "limits":
            offset_D, scale_D = _middle(samples_ND.amin(0), samples_ND.amax(0))
        elif kind == "quantile":
            ordered_ND = samples_ND.sort(0).values
            places = [round(share * (len(ordered_ND) - 1)) for share in (0.01, 0.99)]
            offset_D, scale_D = _middle(ordered_ND[places[0]], ordered_ND[places[1]])
        else:
            raise RequestError(f"normaliser: found '{kind}', expected gaussian, limits or quantile")
        constant_D = scale_D <= _ROUNDING * offset_D.abs().clamp_min(_ROUNDING)
        return cls(offset_D, torch.where(constant_D, torch.ones_like(scale_D), scale_D))

    @property
    def size(self) -> int:
        """D."""
        return len(self.offset_D)

    def normalise(self, values: Tensor) -> Tensor:
        """[..., D] in the data's units -> float32 [..., D]."""
        return ((values.to(self.offset_D) - self.offset_D) / self.scale_D).float()

    def denormalise(self, values: Tensor) -> Tensor:
        """[..., D] -> float32 [..., D] in the data's units; gradients pass."""
        return (values.to(self.offset_D) * self.scale_D + self.offset_D).float()

    def part(self, dimensions: list[int]) -> Normaliser:
        """The normaliser of some of the dimensions."""
        return Normaliser(self.offset_D[dimensions], self.scale_D[dimensions])


def _middle(low_D: Tensor, high_D: Tensor) -> tuple[Tensor, Tensor]:
    return (low_D + high_D) / 2, (high_D - low_D) / 2
