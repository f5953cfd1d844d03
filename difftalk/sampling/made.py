"""What a method makes of a clip."""

import numpy as np

from difftalk.media.shards import Crop
from difftalk.runtime.errors import ClipError

# A clip with its frames (T, H, W, 3) uint8, or why it has none.
Made = tuple[Crop, np.ndarray | ClipError]
