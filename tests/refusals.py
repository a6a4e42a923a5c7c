"""What every refusal of a hostile file must be: quick, of the right type, with the reason and the file's name."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rnncore.errors import RnncoreError

__all__ = ["MEBIBYTES", "SECONDS", "assert_refused"]

SECONDS, MEBIBYTES = 2.0, 256
"""What any hostile file may take."""


def assert_refused(read: Callable[[Path], Any], case: Any, path: Path) -> str:
    """Reads the file, which must be refused as the case says; returns the message."""
    begin = time.process_time()
    with pytest.raises(RnncoreError) as caught:
        read(path)
    assert time.process_time() - begin < SECONDS
    message = str(caught.value)
    assert type(caught.value) is case.error, case.why
    assert case.says in message, case.why
    assert str(path) in message
    return message
