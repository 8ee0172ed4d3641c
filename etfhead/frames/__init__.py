"""Where class vectors point: pure geometry, torch only, no modules."""

from etfhead.frames.base import Coherence, Frame
from etfhead.frames.registry import FRAMES, make_frame
from etfhead.frames.simplex import SimplexFrame

__all__ = ["FRAMES", "Coherence", "Frame", "SimplexFrame", "make_frame"]
