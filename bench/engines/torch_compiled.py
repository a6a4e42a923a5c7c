"""PyTorch compiled by inductor with frozen weights, in inference mode.

A time dimension is unrolled while compiling: shapes with more than MAX_STEPS steps in all layers are not prepared.
Ragged shapes run padded to the longest row, lengths ignored: forward, the steps that count are the same.
"""

import torch
import torch._inductor.config

from engines.torch_eager import module, version

__all__ = ["prepare", "version"]


MAX_STEPS = 500


def prepare(shape, threads):
    if shape.T * shape.layers * shape.directions > MAX_STEPS:
        raise ValueError(f"more than {MAX_STEPS} steps to unroll")
    torch.set_num_threads(threads)
    torch._inductor.config.freezing = True
    torch._dynamo.reset()
    net, x = module(shape)
    with torch.inference_mode():
        compiled = torch.compile(net)
        compiled(x)

    def run():
        with torch.inference_mode():
            return compiled(x)[0].numpy().transpose(1, 0, 2)

    return run
