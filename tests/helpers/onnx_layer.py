"""One RNN, LSTM or GRU node of ONNX, run by ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def onnx_run(kind, x, w, r, b, peephole=None, **attributes):
    """ONNX Runtime's output (B, T, H) of a node of one direction; x (B, T, I), w (G*H, I), r (G*H, H), b (2*G*H,)."""
    hidden, inputs = r.shape[1], w.shape[1]
    names = ["X", "W", "R", "B"] + (["", "", "", "P"] if peephole is not None else [])
    arrays = {"W": w, "R": r, "B": b, **({} if peephole is None else {"P": peephole})}
    node = helper.make_node(kind, names, ["Y"], hidden_size=hidden, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, None, inputs])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 1, None, hidden])],
        [numpy_helper.from_array(array[None].astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"X": x.swapaxes(0, 1)})[0][:, 0].swapaxes(0, 1)
