"""Keras runs on PyTorch, which the tests need anyway; and the instruction sets of this machine, one after the other."""

import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")

from rnncore.kernels import _native


@pytest.fixture(params=_native.usable_isas())
def isa(request, monkeypatch):
    """Models built in the test run on this instruction set."""
    monkeypatch.delenv("RNNCORE_ISA", raising=False)
    before = _native.current_isa()
    _native.choose_isa(request.param)
    yield request.param
    _native.choose_isa(before)
