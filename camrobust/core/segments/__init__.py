"""Segments of images, one method of the registry each, and the small matrix that ranks segments by a map."""

from camrobust.core.segments.methods import felzenszwalb, grid, segment, segment_matrix, slic
from camrobust.core.segments.quickshift import quickshift

__all__ = ["felzenszwalb", "grid", "quickshift", "segment", "segment_matrix", "slic"]
