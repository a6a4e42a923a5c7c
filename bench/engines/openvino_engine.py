"""OpenVINO on the same ONNX graph: static shapes, latency hint, float32 (it prefers bfloat16 where the CPU has it).

Ragged shapes run padded to the longest row, lengths ignored: forward, the steps that count are the same.
"""

import io

import numpy as np
import openvino

from engines.onnxruntime_engine import graph


def version() -> str:
    return openvino.__version__


def prepare(shape, threads):
    core = openvino.Core()
    model = core.read_model(io.BytesIO(graph(shape, use_lengths=False)))
    model.reshape([shape.T, shape.B, shape.I])
    compiled = core.compile_model(
        model,
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads},
    )
    request = compiled.create_infer_request()
    x = openvino.Tensor(np.ascontiguousarray(shape.arrays()[1].transpose(1, 0, 2)))
    request.set_input_tensor(x)

    def run():
        request.infer()
        return request.get_output_tensor().data.transpose(1, 0, 2)

    return run
