from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnncore.kernels._program import Instruction, Operand

LARGEST_CHUNK: int
LARGEST_WHOLE: int
PACKED_AT_ONCE: int

class ConvolutionPlan: ...

class Layout:
    def __init__(self, axes: Iterable[tuple[int, int, int, int, int, int]], parted: bool) -> None: ...

class Convolution:
    def __new__(
        cls,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        groups: int,
        strides: Sequence[int],
        dilations: Sequence[int],
        geometry: Callable[[tuple[int, ...]], tuple[Sequence[int], Sequence[int]]],
        relu: bool,
        threads: int,
    ) -> Convolution: ...
    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def bind(self, compiler: Any, inputs: list[Operand], outputs: list[Operand]) -> bool: ...
    def unpack(self) -> NDArray[np.float32]: ...
    @property
    def packed(self) -> dict[str, Callable[[], NDArray[np.float32]]]: ...

class ConvolutionCall(Instruction):
    def __new__(cls, convolution: Convolution, x: Operand, y: Operand) -> ConvolutionCall: ...
