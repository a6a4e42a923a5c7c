from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MOST_TEMPORARIES: int
MOST_EXTERNALS: int
CASTABLE: set[int]

class Mismatch(Exception): ...

class Operand:
    def __new__(
        cls, slot: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: DTypeLike
    ) -> Operand: ...
    @property
    def slot(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def itemsize(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def dense(self) -> bool: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...

class Instruction:
    work: float

class Elements(Instruction):
    def __new__(
        cls,
        operands: list[Operand],
        constants: list[Any],
        registers: int,
        steps: list[tuple[Any, list[np.dtype[Any]], list[int]]],
    ) -> Elements: ...

class Copy(Instruction):
    def __new__(cls, source: Operand, target: Operand) -> Copy: ...

class Rows(Instruction):
    def __new__(cls, table: Operand, ids: Operand, y: Operand) -> Rows: ...

class Softmax(Instruction):
    def __new__(cls, x: Operand, y: Operand, logarithm: bool) -> Softmax: ...

class Call(Instruction):
    def __new__(
        cls,
        step: Callable[..., None],
        inputs: list[tuple[str, Operand | NDArray[Any] | None]],
        outputs: list[tuple[str, Operand | None]],
        work: float,
    ) -> Call: ...
    @property
    def step(self) -> Callable[..., None]: ...
    @property
    def outputs(self) -> list[tuple[str, Operand | None]]: ...

class Arena:
    def __new__(cls, binding: Binding) -> Arena: ...

class Binding:
    def __new__(
        cls,
        instructions: list[Instruction],
        slots: list[Any],
        arena_bytes: int,
        inputs: list[int | None],
        outputs: list[Operand],
    ) -> Binding: ...
    @property
    def instructions(self) -> list[Instruction]: ...
    @property
    def outputs(self) -> list[Operand]: ...
    @property
    def slot_count(self) -> int: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def work(self) -> float: ...

class Body:
    def __new__(cls, binding: Binding, table: Operand, memory: Operand) -> Body: ...
    @property
    def results(self) -> list[Operand]: ...

class Repeat(Instruction):
    def __new__(
        cls,
        body: Body,
        steps: int,
        states: list[tuple[Operand, Operand, Operand, Operand]],
        feeds: list[tuple[int | None, Operand | None, int]],
        collects: list[tuple[int | None, Operand | None, int]],
        counter: Operand | None = None,
        going: int | None = None,
    ) -> Repeat: ...

class Choice(Instruction):
    def __new__(
        cls, condition: Operand, bodies: list[Body], feeds: list[list[Operand]], outputs: list[Operand]
    ) -> Choice: ...

class Signatures:
    def __new__(
        cls,
        inputs: tuple[tuple[str, DTypeLike, int, bool], ...],
        states: tuple[tuple[str, DTypeLike, int], ...],
        outputs: tuple[str, ...],
        state_outputs: tuple[str, ...],
        most: int,
    ) -> Signatures: ...
    def __len__(self) -> int: ...
    def __contains__(self, key: bytes, /) -> bool: ...
    @property
    def most(self) -> int: ...
    @property
    def bound(self) -> dict[bytes, Binding]: ...
    def key(self, arrays: list[NDArray[Any] | None], states_after: bool) -> bytes: ...
    def clear(self) -> None: ...
    def add(self, key: bytes, binding: Binding) -> None: ...
    def call(
        self, given: dict[str, Any], states: dict[str, Any] | None, states_after: bool
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]] | None] | None: ...
