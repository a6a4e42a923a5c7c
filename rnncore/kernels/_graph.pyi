from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

class OpStep:
    def __new__(
        cls,
        run: Callable[..., Any],
        inputs: tuple[str, ...],
        names: tuple[str, ...],
        label: str,
        packed: dict[str, Callable[[], NDArray[Any]]],
        parted: Callable[..., Any] | None = None,
        elements: int = 0,
    ) -> OpStep: ...
    def __call__(self, values: dict[str, Any], before: Any, after: Any) -> None: ...
    @property
    def run(self) -> Callable[..., Any]: ...
    @property
    def packed(self) -> dict[str, Callable[[], NDArray[Any]]]: ...

class Spans: ...

def walk(
    steps: list[Any], unread: list[tuple[str, ...]] | None, values: dict[str, Any], before: Any, after: Any
) -> None: ...
def unalias(names: tuple[str, ...], values: dict[str, Any], kept: list[Any]) -> dict[str, NDArray[Any]]: ...
