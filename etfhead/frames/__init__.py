"""Where class vectors point: pure geometry, torch only, no modules."""

from etfhead.frames.assigned import AssignedFrame
from etfhead.frames.base import Frame
from etfhead.frames.code import CodeFrame
from etfhead.frames.coherence import Coherence
from etfhead.frames.fitted import ClassMeansFrame, OrientedSimplexFrame
from etfhead.frames.imbalanced_ce import ImbalancedCEFrame
from etfhead.frames.orthogonal import OrthogonalFrame
from etfhead.frames.orthoplex import OrthoplexFrame
from etfhead.frames.registry import FRAMES, frame_options, make_frame
from etfhead.frames.regression import RegressionFrame
from etfhead.frames.seli import SeliFrame
from etfhead.frames.simplex import SimplexFrame
from etfhead.frames.streaming import streamed_topk
from etfhead.frames.target_moments import TargetStatistics, target_statistics
from etfhead.frames.ufm import ufm_gram
from etfhead.frames.union import UnionFrame

__all__ = [
    "FRAMES",
    "AssignedFrame",
    "ClassMeansFrame",
    "CodeFrame",
    "Coherence",
    "Frame",
    "ImbalancedCEFrame",
    "OrientedSimplexFrame",
    "OrthogonalFrame",
    "OrthoplexFrame",
    "RegressionFrame",
    "SeliFrame",
    "SimplexFrame",
    "TargetStatistics",
    "UnionFrame",
    "frame_options",
    "make_frame",
    "streamed_topk",
    "target_statistics",
    "ufm_gram",
]
