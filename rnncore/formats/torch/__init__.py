"""PyTorch checkpoints: the archive and its pickle (file, pickle_reader, objects, collecting), names of tensors (names),
weights in other forms (parametrizations, quantized).

Decisions

- Quantized checkpoints of PyTorch are computed in float32. Its kernels round a layer's input by the largest number
  of a call, so that a row's result depends on the others; the weights alone are kept as they are, with a warning.
- Pickles are decoded here where vocabularies need it (text, integers, the memo), by pickletools elsewhere; time is
  bounded for all files, memory in proportion to the pickle.
"""
