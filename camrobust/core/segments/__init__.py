"""Segmentation methods, and the small matrix that gives each segment its score under a map."""

from camrobust.core.segments.matrix import segment_matrices, segment_matrix, segment_scores
from camrobust.core.segments.methods import felzenszwalb, grid, segment, slic
from camrobust.core.segments.quickshift import quickshift

__all__ = [
    "felzenszwalb",
    "grid",
    "quickshift",
    "segment",
    "segment_matrices",
    "segment_matrix",
    "segment_scores",
    "slic",
]
