"""A trained policy for robots elsewhere: a server that speaks the openpi policy protocol over websockets."""

from qseq.serving.config import Limits, ServingConfig
from qseq.serving.server import PolicyServer

__all__ = ["Limits", "PolicyServer", "ServingConfig"]
