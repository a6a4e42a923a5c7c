"""KServe's own clients, REST and gRPC, unchanged, against the server: the answers are the model's, bit for bit.

    make kserve        (an environment on top of the tests': kserve brings kubernetes, pandas and more along)
    python tests/tools/serve_kserve.py

Also compares what they send with kserve_requests.py, which stands for them in the tests.
"""

import asyncio
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import _helpers  # noqa: F401
import grpc
import httpx
import kserve_requests
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from serve_processes import save_models, server_process
from served import FEATURES, WORDS, models

TOKEN = "a-token-of-a-client"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
RNG = np.random.default_rng(0)


def draw(model, dtype):
    if model == "reader":
        return {"ids": RNG.integers(0, WORDS, (int(RNG.integers(1, 4)), 5))}
    if model == "adder":
        return {"a": RNG.standard_normal((3, 4)).astype(dtype), "keep": RNG.random((3, 4)) < 0.5}
    batch, steps = int(RNG.integers(0, 4)), int(RNG.integers(1, 6))
    return {
        "x": RNG.standard_normal((batch, steps, FEATURES)).astype(dtype),
        "lengths": RNG.integers(0, steps + 1, batch),
    }


def as_request(model, arrays, binary, outputs, parameters):
    inputs = []
    for name, array in arrays.items():
        inputs.append(InferInput(name, list(array.shape), kserve_requests.DATATYPES[array.dtype.name]))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    wanted = [RequestedOutput(name, given) for name, given in (outputs or {}).items()] or None
    return InferRequest(model, inputs, request_id="mine", request_outputs=wanted, parameters=parameters)


def check(response, expected):
    assert {output.name for output in response.outputs} == set(expected)
    for output in response.outputs:
        found = output.as_numpy()
        assert found.shape == expected[output.name].shape, (output.name, found.shape)
        assert found.tobytes() == expected[output.name].tobytes(), output.name


def check_written(model, arrays, binary, outputs, parameters):
    """What stands for the clients in the tests is what they send."""
    options = {"binary": binary, "outputs": outputs, "parameters": parameters, "id": "mine"}
    sent, length = as_request(model, arrays, binary, outputs, parameters).to_rest()
    body, headers = kserve_requests.rest(model, arrays, **options)
    if length is None:
        assert json.loads(body) == json.loads(json.dumps(sent)) and kserve_requests.LENGTH not in headers
    else:
        own = int(headers[kserve_requests.LENGTH])
        assert json.loads(body[:own]) == json.loads(sent[:length]) and body[own:] == sent[length:]
    sent = as_request(model, arrays, binary, outputs, parameters).to_grpc().SerializeToString(deterministic=True)
    assert kserve_requests.grpc(model, arrays, **options).SerializeToString(deterministic=True) == sent


async def run(server, networks, report=print):
    asked = 0
    base, grpc_port = f"http://127.0.0.1:{server.port}", server.events[0]["grpc_port"]
    metadata = tuple(HEADERS.items())
    async with (
        InferenceRESTClient(RESTConfig(protocol="v2")) as rest,
        InferenceGRPCClient(f"127.0.0.1:{grpc_port}") as call,
    ):
        assert await rest.is_server_live(base) is True and await rest.is_server_ready(base) is True
        assert await rest.is_model_ready(base, "tagger", headers=HEADERS) is True
        assert not await rest.is_model_ready(base, "stranger", headers=HEADERS)
        assert await call.is_server_live() and await call.is_server_ready() and await call.is_model_ready("tagger")
        for _ in range(20):
            for model, network in networks.items():
                for binary in (True, False):
                    for dtype in (np.float32, np.float64, *([np.float16] if binary else [])):
                        arrays = draw(model, dtype)
                        names = network.spec.outputs
                        outputs = [None, {names[0]: {"binary_data": binary}}][int(RNG.integers(2))]
                        parameters = [None, {"user": "ann", "k": 3, "fast": True}][int(RNG.integers(2))]
                        check_written(model, arrays, binary, outputs, parameters)
                        floats = {
                            name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()
                        }
                        expected = {
                            name: a for name, a in network.run(floats).items() if not outputs or name in outputs
                        }
                        request = as_request(model, arrays, binary, outputs, parameters)
                        check(await rest.infer(base, request, model_name=model, headers=dict(HEADERS)), expected)
                        request = as_request(model, arrays, binary, outputs, parameters)
                        check(await call.infer(request, headers=metadata), expected)
                        asked += 2
        request = as_request("tagger", draw("tagger", np.float32), True, None, None)
        try:
            await rest.infer(base, request, model_name="tagger")
            raise AssertionError("answered without a token")
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 401 and "token" in str(error)
        try:
            await call.infer(request)
            raise AssertionError("answered without a token")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    report(f"kserve {version('kserve')}: {asked} requests, each answered with the model's bits")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text(TOKEN)
        networks = models()
        files = save_models(folder, networks)
        with server_process(files, "--token-file", str(tokens), "--grpc-port", "0") as server:
            asyncio.run(run(server, networks))
