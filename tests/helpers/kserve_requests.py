"""Requests as KServe's clients of version 0.21.0 make them, and how they read the answers.

Those clients bring kubernetes, pandas and Ray's helpers along, too much for the tests. What they send is written down
here, from kserve/protocol/infer_type.py (InferInput.set_data_from_numpy, InferRequest.to_rest and to_grpc,
InferResponse.from_bytes and from_grpc) and kserve/inference_client.py; serve_kserve.py runs the real ones and compares.
"""

import json
import uuid

import numpy as np

from rnncore.serve.messages import message

LENGTH = "inference-header-content-length"
DATATYPES = {
    "bool": "BOOL",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
DTYPES = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}
CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def rest(model, arrays, *, binary=True, id=None, outputs=None, parameters=None):
    """(body, headers) of POST /v2/models/{model}/infer. outputs: name -> its parameters, or None."""
    inputs, raw = [], []
    for name, array in arrays.items():
        entry = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
        if binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
        if binary and array.nbytes:
            raw.append(array.tobytes())
        else:
            entry["data"] = None if binary else [value.item() for value in array.flatten()]
        inputs.append(entry)
    request = {"id": id or str(uuid.uuid4()), "model_name": model, "inputs": inputs}
    if outputs:
        request["outputs"] = [
            {"name": name, **({"parameters": given} if given else {})} for name, given in outputs.items()
        ]
    if parameters:
        request["parameters"] = parameters
    head = json.dumps(request, separators=(",", ":")).encode()
    if not raw:
        return head, {"content-type": "application/json"}
    return b"".join([head, *raw]), {LENGTH: str(len(head)), "content-type": "application/octet-stream"}


def read_rest(content, headers):
    """The arrays of an answer."""
    length = int(headers.get(LENGTH, len(content)))
    answer, at, arrays = json.loads(content[:length]), length, {}
    for output in answer["outputs"]:
        dtype = DTYPES[output["datatype"]]
        if "binary_data_size" in output.get("parameters", {}):
            size = output["parameters"]["binary_data_size"]
            array = np.frombuffer(content[at : at + size], dtype)
            at += size
        else:
            array = np.array(output["data"], dtype)
        arrays[output["name"]] = array.reshape(output["shape"])
    return answer["model_name"], arrays


def grpc(model, arrays, *, binary=True, id="", outputs=None, parameters=None):
    """The ModelInferRequest."""
    request = message("ModelInferRequest")(model_name=model, id=id)
    for name, array in arrays.items():
        entry = request.inputs.add(name=name, shape=array.shape, datatype=DATATYPES[array.dtype.name])
        if binary:
            entry.parameters["binary_data_size"].int64_param = array.nbytes
            request.raw_input_contents.append(array.tobytes())
        else:
            values = [value.item() for value in array.flatten()]
            getattr(entry.contents, CONTENTS[entry.datatype]).extend(values)
            entry.contents.SetInParent()
    for name, given in (outputs or {}).items():
        _set(request.outputs.add(name=name).parameters, given or {})
    _set(request.parameters, parameters or {})
    return request


def _set(parameters, values):
    for name, value in values.items():
        kind = {str: "string_param", bool: "bool_param", int: "int64_param"}[type(value)]
        setattr(parameters[name], kind, value)


def read_grpc(answer):
    """The arrays of an answer."""
    return {
        output.name: np.frombuffer(raw, DTYPES[output.datatype]).reshape(output.shape)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
