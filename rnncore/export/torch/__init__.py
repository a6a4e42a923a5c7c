"""Recording a live PyTorch module (trace, entrances), rolling its loops up (loops, chains, scan), making nodes
(lowering, functions, layers) and proving the result (proof, bounds)."""
