from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnncore.kernels._blas_loop import MERGES as MERGES
from rnncore.kernels._packing import PackedCell
from rnncore.kernels._program import Instruction, Operand
from rnncore.kernels._program import Mismatch as Mismatch

MOST_LAYERS: int

class Stack:
    def __new__(cls, layers: list[Sequence[PackedCell]], reverse: bool) -> Stack: ...
    def run(
        self,
        x: NDArray[np.float32] | NDArray[np.int64],
        y: NDArray[np.float32] | None,
        merge: str,
        last_merge: str,
        time_first: bool,
        flip: bool,
        order: NDArray[np.int64] | None,
        lengths: NDArray[np.int64] | None,
        steps: NDArray[np.int64] | None,
        before: tuple[NDArray[np.float32], ...],
        after: tuple[NDArray[np.float32], ...],
        threads: int,
        table: Table | None = None,
    ) -> None: ...
    @property
    def cells(self) -> list[PackedCell]: ...
    @property
    def nbytes(self) -> int: ...

class StackCall(Instruction):
    def __new__(
        cls,
        stack: Stack,
        x: Operand,
        y: Operand | None,
        merge: str,
        time_first: bool,
        flip: bool,
        before: tuple[Operand, ...],
        after: tuple[Operand, ...],
        threads: int,
        table: Table | None = None,
    ) -> StackCall: ...

class Table:
    def __new__(cls, stack: Stack, weight: NDArray[Any]) -> Table: ...
    @property
    def nbytes(self) -> int: ...

class Direct:
    def __new__(
        cls,
        stack: Stack,
        merge: str,
        input_size: int,
        width: int,
        names: tuple[str, ...],
        threads: int,
        most: int = ...,
    ) -> Direct: ...
    def __call__(self, x: Any) -> NDArray[np.float32] | None: ...
    def step(
        self, x: Any, state: dict[str, NDArray[Any]]
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]] | None: ...

def table_bytes(stack: Stack, rows: int) -> int: ...
def call_direct_first(of: type) -> None: ...
