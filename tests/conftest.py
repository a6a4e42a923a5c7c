"""Keras runs on PyTorch, which the tests need anyway; and the instruction sets of this machine, one after the other."""

import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")

from rnncore.kernels import _runtime


@pytest.fixture(params=_runtime.usable_isas())
def isa(request, monkeypatch):
    """Models built in the test run on this instruction set."""
    monkeypatch.delenv("RNNCORE_ISA", raising=False)
    before = _runtime.current_isa()
    _runtime.choose_isa(request.param)
    yield request.param
    _runtime.choose_isa(before)
