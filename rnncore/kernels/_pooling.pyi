from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST: int

class Pooling:
    def __new__(
        cls,
        sizes: Sequence[int],
        outputs: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        begins: Sequence[int],
        largest: bool,
        divisors: NDArray[Any] | None,
    ) -> Pooling: ...
    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]: ...
