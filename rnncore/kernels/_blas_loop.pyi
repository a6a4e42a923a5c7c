from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

BLAS_MOST: int
KINDS: dict[str, int]
MERGES: dict[str, int]

def check_cell(kind: str, options: dict[str, Any], weights: dict[str, NDArray[Any]], dtype: DTypeLike) -> None: ...

class BlasCell:
    def __new__(
        cls, kind: str, options: dict[str, Any], weights: dict[str, NDArray[Any]], double_precision: bool
    ) -> BlasCell: ...
    def run(
        self,
        x: NDArray[Any],
        y: NDArray[Any] | None,
        column: int,
        merge: str,
        time_first: bool,
        reverse: bool,
        flip: bool,
        order: NDArray[np.int64] | None,
        lengths: NDArray[np.int64] | None,
        steps: NDArray[np.int64] | None,
        before: tuple[NDArray[Any], ...],
        after: tuple[NDArray[Any], ...],
    ) -> None: ...
