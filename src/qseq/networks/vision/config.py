"""Everything the reading of cameras can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from qseq.configuration import Fraction, NonNegativeInt, PositiveInt
from qseq.errors import ConfigError

MODULE = "module:"
BACKBONES = ("timm:", "transformers:")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class MaxViTConfig:
    """Sizes of the "maxvit" tower; see `MaxViT`. Sides of a frame are multiples of window_size * 2 ** (stages + 1)."""

    dim: PositiveInt = 32
    """Features of the first stage; every later one has twice as many."""
    depth: tuple[int, ...] = (1, 1)
    """Blocks of each stage."""
    dim_head: PositiveInt = 32
    heads: PositiveInt | None = None
    """Attention heads in every stage; by default as many as fill the stage's width."""
    dim_conv_stem: PositiveInt | None = None
    """Features of the stem, by default `dim`."""
    window_size: PositiveInt = 7
    mbconv_expansion_rate: float = 4.0
    mbconv_shrinkage_rate: float = 0.25
    dropout: Fraction = 0.1
    use_layernorm: bool = True
    """Layer norm in convolution blocks; else group norm."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """How a "timm:NAME" or "transformers:NAME_OR_PATH" tower is made."""

    pretrained: bool = False
    """Start from published weights, which downloads them; else from random ones."""
    frozen: bool = False
    """Leave the backbone's weights as they are, and its dropout off."""
    mean: tuple[float, ...] = _IMAGENET_MEAN
    """Taken from every channel of an image in [0, 1], and what the rest is divided by; as the weights are used to."""
    std: tuple[float, ...] = _IMAGENET_STD
    description: str = ""
    """The backbone's own configuration, as JSON. Filled in when a network is made, so that a policy can be loaded where
    NAME_OR_PATH is not at hand."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """What reads a camera."""

    tower: str = "conv"
    """"conv": a small residual network; "maxvit": see `maxvit`; "timm:NAME" or "transformers:NAME_OR_PATH": a backbone
    of one of these libraries, see `backbone`."""
    dim: int = 32
    """Features of the "conv" tower's first stage; every later one has twice as many."""
    depth: tuple[int, ...] = (1, 1)
    """Residual blocks of each of its stages."""
    patch: NonNegativeInt = 0
    """Side in pixels of the patches that the "conv" tower cuts a frame into; 0 for overlapping ones, every 4 pixels."""
    gated: NonNegativeInt = 0
    """Width of a layer after the "conv" tower's stem whose features the instruction scales (`GatedLayer`); 0 for none.
    For small towers that are to find what an instruction names."""
    maxvit: MaxViTConfig = field(default_factory=MaxViTConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    checkpoint_activations: bool = False
    """In training, compute a tower's activations again when going backwards instead of keeping them, on a CPU for a few
    frames at a time: a fraction of the memory, about a third more time."""
    condition_on_state: bool = False
    """Let the fields of numbers of the same frame, such as odometry, condition the tower together with the instruction:
    what lies to the left of where the robot started lies elsewhere in the picture once it has turned."""
    learn_places: bool = False
    """Add a learnt vector to each position of the tower's map, and let every token begin by looking at a few positions
    of its own. Without, towers know rows and columns as numbers, by which a look can only lean to a side, and tokens
    begin as means of the whole map."""
    tokens: NonNegativeInt = 8
    """Tokens of a frame, made by TokenLearner. With 0 every position of the tower's map is a token: more work, and
    nothing is left out."""
    token_learner_ff_mult: PositiveInt = 2
    """Hidden width of its network, in units of the tower's features."""
    token_learner_layers: PositiveInt = 2
    """Its linear layers."""

    def __post_init__(self) -> None:
        known = self.tower in ("conv", "maxvit") or self.tower.startswith((*BACKBONES, MODULE))
        if not known or self.tower.endswith(":"):
            raise ConfigError(
                f"network.vision.tower: found '{self.tower}', expected conv, maxvit, timm:NAME or "
                "transformers:NAME_OR_PATH"
            )
