"""What passes from stage to stage.

Batches are dictionaries of numpy arrays and may be read-only (Ray hands out shared memory), so nothing writes in place.
"""

from typing import Any

Batch = dict[str, Any]
UNKNOWN_LABEL = -1
QUARANTINED = "quarantined"
PROPERTIES = ("brightness", "contrast", "colourfulness", "edge_density", "high_frequency")
KEYS = ("dataset", "image_id", "label", "parts")
ERROR = ("stage", "kind", "message")
