"""The number of threads a model uses by default: what this process may really use."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

from rnncore.errors import InputError, shown
from rnncore.kernels import _runtime

__all__ = ["check_threads", "default_threads", "threads_of_call"]

LARGEST = 64


def check_threads(given: object, name: str = "num_threads") -> int:
    """A number of threads from 1 to 64; None means default_threads(). InputError otherwise."""
    if given is None:
        return default_threads()
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= LARGEST:
        raise InputError(f"{name}={shown(given)}, expected an integer from 1 to {LARGEST}")
    return given


@contextlib.contextmanager
def threads_of_call(given: int) -> Iterator[None]:
    """Calls of this thread inside use ``given`` threads, whatever its models were made with. InputError as above."""
    before = _runtime.ask_threads(check_threads(given))
    try:
        yield
    finally:
        _runtime.ask_threads(before)


@functools.cache
def default_threads() -> int:
    """RNNCORE_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that affinity and cgroup leave this process."""
    for name in ("RNNCORE_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").strip()
        if text:
            if not text.isdigit():
                if name == "OMP_NUM_THREADS":  # it may be a list for nested regions; the first is the outermost
                    text = text.partition(",")[0].strip()
                if not text.isdigit():
                    raise InputError(f"environment {name}={text!r}, expected an integer from 1 to {LARGEST}")
            return min(max(int(text), 1), LARGEST)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, _cgroup_cpus(), LARGEST)


def _cgroup_cpus() -> int:
    """Whole CPUs that the control group's quota is worth (at least one); LARGEST without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return LARGEST if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    try:
        base = Path("/sys/fs/cgroup/cpu")
        quota_us = int((base / "cpu.cfs_quota_us").read_text())
        period_us = int((base / "cpu.cfs_period_us").read_text())
        return LARGEST if quota_us <= 0 else max(1, math.ceil(quota_us / period_us))
    except (OSError, ValueError, ZeroDivisionError):
        return LARGEST
