"""Where things happen: Gymnasium environments in one form, Meta-World, and scripted experts to collect data with."""

from qseq.environments.make import make_environment
from qseq.environments.observation import DictObservation
from qseq.environments.spaces import space_from_json, space_to_json

__all__ = ["DictObservation", "make_environment", "space_from_json", "space_to_json"]
