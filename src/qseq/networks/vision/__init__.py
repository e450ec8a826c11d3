"""Camera images -> feature maps -> a few tokens, conditioned on an instruction."""

from qseq.networks.vision.augmentation import center_crop, crop, random_crop, random_shift
from qseq.networks.vision.backbone import BackboneTower
from qseq.networks.vision.config import BackboneConfig, MaxViTConfig, VisionConfig
from qseq.networks.vision.factory import make_tower, resolve_vision
from qseq.networks.vision.film import FiLM, NullCondition
from qseq.networks.vision.maxvit import MaxViT
from qseq.networks.vision.small import ConvTower
from qseq.networks.vision.token_learner import TokenLearner
from qseq.networks.vision.tower import VisionTower

__all__ = [
    "BackboneConfig",
    "BackboneTower",
    "ConvTower",
    "FiLM",
    "MaxViT",
    "MaxViTConfig",
    "NullCondition",
    "TokenLearner",
    "VisionConfig",
    "VisionTower",
    "center_crop",
    "crop",
    "make_tower",
    "random_crop",
    "random_shift",
    "resolve_vision",
]
