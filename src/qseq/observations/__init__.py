"""What a policy is shown and remembers, with numpy alone: where an exported policy acts there need be no torch."""

from qseq.observations.inputs import Observation, is_image, read_frames, read_instructions
from qseq.observations.memory import FrameMemory, frames_back

__all__ = ["FrameMemory", "Observation", "frames_back", "is_image", "read_frames", "read_instructions"]
