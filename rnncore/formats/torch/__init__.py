"""PyTorch checkpoints: the archive and its pickle (file, pickle_reader), names of tensors (names), weights in other
forms (parametrizations, quantized)."""
