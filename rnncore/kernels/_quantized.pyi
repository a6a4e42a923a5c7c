from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_DEPTH: int

class ByteMatrix:
    def __new__(cls, b: NDArray[Any], zero: Any, threads: int) -> ByteMatrix: ...
    def __call__(self, a: NDArray[Any], zero: Any = None) -> NDArray[np.int32]: ...

class DynamicLSTM:
    def __new__(
        cls,
        w: NDArray[Any],
        w_scale: Any,
        w_zero: Any,
        r: NDArray[Any],
        r_scale: Any,
        r_zero: Any,
        bias: Any,
        peephole: Any,
        clip: float | None,
        input_forget: bool,
        backwards: tuple[bool, ...],
        threads: int,
    ) -> DynamicLSTM: ...
    def __call__(
        self,
        x: NDArray[np.float32],
        lengths: NDArray[np.int64] | None,
        h0: NDArray[np.float32] | None,
        c0: NDArray[np.float32] | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...

def quantize(x: NDArray[np.float32]) -> tuple[NDArray[np.uint8], np.float32, np.uint8]: ...
