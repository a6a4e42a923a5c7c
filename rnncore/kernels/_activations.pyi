from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ACTIVATION_IDS: dict[str, int]
RATIONALS: dict[str, int]

def activate(name: str, alpha: float, beta: float, x: NDArray[Any]) -> None: ...
def rational(name: str, x: ArrayLike) -> NDArray[np.float32]: ...
