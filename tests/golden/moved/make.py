"""Make dynamo.onnx and dynamo.npz: what PyTorch's newer exporter writes for moved_modules.py, and the outputs.

    PYTHONPATH=.:tests/helpers python tests/golden/moved/make.py

Made with PyTorch 2.13.0, onnxscript 0.7.2 and onnx 1.23.2.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from moved_modules import I, Written

HERE = Path(__file__).parent


def main():
    torch.manual_seed(0)
    module, x = Written().eval(), torch.randn(2, 23, I)
    sizes = {"x": {0: torch.export.Dim("B"), 1: torch.export.Dim("T", min=5)}}
    torch.onnx.export(
        module, (x,), HERE / "dynamo.onnx", dynamo=True, dynamic_shapes=sizes, verbose=False, external_data=False
    )
    made = onnx.load(HERE / "dynamo.onnx")
    for part in (made, made.graph, *made.graph.node, *made.graph.value_info, *made.graph.input, *made.graph.output):
        del part.metadata_props[:]  # the lines of code that each comes from
        part.doc_string = ""
    onnx.save(made, HERE / "dynamo.onnx")
    outputs = {str(place): array.detach().numpy() for place, array in enumerate(module(x))}
    np.savez_compressed(HERE / "dynamo.npz", x=x.numpy(), **outputs)


if __name__ == "__main__":
    main()
