"""Actions as token sequences, and back.

A decision of an agent is a sequence of `A` tokens, each one of at most `K` bins. This floor knows nothing of networks
or environments: it works from the JSON form of an action space.
"""

from .base import ActionTokenizer
from .chunk import ChunkTokens
from .discrete import DiscreteTokens, MultiDiscreteTokens
from .factory import make_tokenizer
from .quantile import QuantileBins
from .uniform import UniformBins

__all__ = [
    "ActionTokenizer",
    "ChunkTokens",
    "DiscreteTokens",
    "MultiDiscreteTokens",
    "QuantileBins",
    "UniformBins",
    "make_tokenizer",
]
