from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from rnncore.kernels._program import Instruction, Operand

@overload
def normalize(
    x: NDArray[np.float32],
    n: int,
    inner: int,
    period: int,
    centred: bool,
    epsilon: float,
    scale: NDArray[np.float32],
    offset: NDArray[np.float32] | None,
    statistics: Literal[False],
) -> NDArray[np.float32]: ...
@overload
def normalize(
    x: NDArray[np.float32],
    n: int,
    inner: int,
    period: int,
    centred: bool,
    epsilon: float,
    scale: NDArray[np.float32],
    offset: NDArray[np.float32] | None,
    statistics: Literal[True],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...

class Normalize(Instruction):
    def __new__(
        cls,
        x: Operand,
        y: Operand,
        n: int,
        inner: int,
        period: int,
        centred: bool,
        epsilon: float,
        scale: Operand,
        offset: Operand | None = None,
    ) -> Normalize: ...
