"""Keras runs on PyTorch, which the tests need anyway."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
