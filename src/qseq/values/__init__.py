"""The mathematics of values: pure functions of tensors, always in float32 or better.

`token_backup` is the one Bellman backup of the project; everything else here prepares its arguments or measures the
distance to its result.
"""

from .backup import decision_tokens, horizon_values, token_backup
from .conservatism import conservative_penalty, off_data_mean
from .consistency import consistency_penalty
from .heads import BoundedValue, CategoricalValue, UnboundedValue, ValueTransform, make_value_transform, take_tokens
from .least import LeastOf
from .returns import n_step_returns, returns_to_go

__all__ = [
    "BoundedValue",
    "CategoricalValue",
    "LeastOf",
    "UnboundedValue",
    "ValueTransform",
    "conservative_penalty",
    "consistency_penalty",
    "decision_tokens",
    "horizon_values",
    "make_value_transform",
    "n_step_returns",
    "off_data_mean",
    "returns_to_go",
    "take_tokens",
    "token_backup",
]
