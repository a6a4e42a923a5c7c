"""What KServe's clients send, and tensors of every kind that clients hold: the answers are the model's, bit for bit.

tests/tools/serve_kserve.py runs KServe's own clients.
"""

import json
import re
import threading

import grpc
import httpx
import kserve_requests as kserve
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from served import FEATURES, WORDS, models, running, tagger
from served_grpc import running as running_grpc
from stream_models import equal

from rnncore.graph.nodes import Input, Node
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model
from rnncore.serve.messages import SERVICE, methods

RNG = np.random.default_rng(0)


def halves():
    """(B, N) float16 and (B, N) bool -> the half where it is to be kept, as float16 and as float64."""
    spec = Spec(
        [Input("a", "float16", ("B", "N")), Input("keep", "bool", ("B", "N"))],
        [
            Node("number", "Cast", "keep", {"to": "float16"}),
            Node("kept", "Mul", ("a", "number")),
            Node("wide", "Cast", "kept", {"to": "float64"}),
        ],
        ["kept", "wide", "keep"],
    )
    return Model(spec, {})


MODELS = {**models(), "halves": halves()}


@pytest.fixture(scope="module")
def rest():
    """Ask over HTTP: (status, headers, content)."""
    with running(MODELS) as address, httpx.Client(base_url=f"http://{address}") as client:

        def ask(model, body, headers):
            return client.post(f"/v2/models/{model}/infer", content=body, headers=headers)

        ask.client, ask.address = client, address
        yield ask


@pytest.fixture(scope="module")
def call():
    """Ask over gRPC."""
    with running_grpc(networks=MODELS) as (address, _, _), grpc.insecure_channel(address) as channel:

        def ask(request, method="ModelInfer", **options):
            kind, answer, _ = methods()[method]
            return channel.unary_unary(f"/{SERVICE}/{method}", kind.SerializeToString, answer.FromString)(
                request, **options
            )

        ask.address = address
        yield ask


def given(model, dtype=np.float32):
    """Inputs of a model, floats of this dtype; and what the model makes of them."""
    if model == "tagger":
        x, lengths = RNG.standard_normal((2, 3, FEATURES)).astype(dtype), np.array([3, 1])
        arrays = {"x": x, "lengths": lengths}
        own = {"x": x.astype(np.float32), "lengths": lengths}
    elif model == "reader":
        arrays = own = {"ids": RNG.integers(0, WORDS, (2, 4))}
    else:
        a, keep = RNG.standard_normal((3, 4)).astype(dtype), RNG.random((3, 4)) < 0.5
        arrays = {"a": a, "keep": keep}
        own = {"a": a.astype(np.float16 if model == "halves" else np.float32), "keep": keep}
    return arrays, MODELS[model].run(own)


def same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and equal(found[name], array), name


NAMES = ["tagger", "reader", "adder", "halves"]


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("binary", [True, False])
def test_kserve_over_http(rest, model, binary):
    dtype = np.float16 if model == "halves" else np.float32
    for parameters in (None, {"binary_data_output": True}, {"temperature": 0.5, "user": "ann", "fast": True, "k": 3}):
        arrays, expected = given(model, dtype)
        body, headers = kserve.rest(model, arrays, binary=binary, parameters=parameters, id="mine")
        answer = rest(model, body, headers)
        assert answer.status_code == 200, answer.text
        name, found = kserve.read_rest(answer.content, answer.headers)
        assert name == model
        same(found, expected)


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("binary", [True, False])
def test_kserve_over_grpc(call, model, binary):
    if model == "halves" and not binary:
        assert "FP16" not in kserve.CONTENTS  # the protocol has no typed contents of this datatype
        return
    arrays, expected = given(model, np.float16 if model == "halves" else np.float32)
    for parameters in (None, {"user": "ann", "fast": True, "k": 3}):
        answer = call(kserve.grpc(model, arrays, binary=binary, parameters=parameters, id="mine"))
        assert answer.id == "mine"
        same(kserve.read_grpc(answer), expected)


@pytest.mark.parametrize("binary", [True, False])
def test_requested_outputs_and_their_parameters(rest, call, binary):
    arrays, expected = given("reader")
    outputs = {"gru.h": {"binary_data": binary, "note": "x"}, "gru.last": None}
    answer = rest("reader", *kserve.rest("reader", arrays, outputs=outputs))
    same(kserve.read_rest(answer.content, answer.headers)[1], expected)
    assert (
        "parameters" in json.loads(answer.content[: int(answer.headers.get(kserve.LENGTH, 1 << 20))])["outputs"][0]
    ) == (binary)
    same(kserve.read_grpc(call(kserve.grpc("reader", arrays, outputs=outputs))), expected)


@pytest.mark.parametrize("outputs", [[], None, "absent"])
def test_no_outputs_asks_for_all(rest, outputs):
    arrays, expected = given("reader")
    asked = json.loads(kserve.rest("reader", arrays, binary=False)[0])
    asked.pop("outputs", None)
    if outputs != "absent":
        asked["outputs"] = outputs
    answer = rest("reader", json.dumps(asked), {})
    same(kserve.read_rest(answer.content, answer.headers)[1], expected)


def test_empty_arrays(rest, call):
    x = np.zeros((0, 4, FEATURES), np.float32)
    for binary in (True, False):
        answer = rest("tagger", *kserve.rest("tagger", {"x": x}, binary=binary))
        assert answer.status_code == 200, answer.text
        assert kserve.read_rest(answer.content, answer.headers)[1]["tags"].shape == (0, 4, 4)
        assert kserve.read_grpc(call(kserve.grpc("tagger", {"x": x}, binary=binary)))["tags"].shape == (0, 4, 4)


def test_health_as_the_specification_has_it(rest, call):
    assert rest.client.get("/v2/health/live").json() == {"live": True}
    assert rest.client.get("/v2/health/ready").json() == {"ready": True}
    assert rest.client.get("/v2/models/tagger/ready").json() == {"name": "tagger", "ready": True}
    assert rest.client.get("/v2/models/stranger/ready").status_code == 404
    kind = methods()
    assert call(kind["ServerLive"][0](), "ServerLive").live and call(kind["ServerReady"][0](), "ServerReady").ready
    assert call(kind["ModelReady"][0](name="tagger"), "ModelReady").ready


def test_a_server_that_ends_says_that_it_is_not_ready():
    from rnncore.serve import create_app

    app = create_app({"tagger": tagger()})
    with running(app) as address:
        app.state.service.draining = True
        for path, body in (("/v2/health/ready", {}), ("/v2/models/tagger/ready", {"name": "tagger"})):
            found = httpx.get(f"http://{address}{path}")
            assert (found.status_code, found.json()) == (503, {**body, "ready": False})
        assert httpx.get(f"http://{address}/v2/health/live").json() == {"live": True}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("model", ["tagger", "adder", "halves"])
def test_floats_of_every_width(rest, call, model, dtype):
    """A model's floats may be sent in any float; the answer is the model's for the numbers that they become."""
    for binary in (True, False):
        arrays, expected = given(model, dtype)
        answer = rest(model, *kserve.rest(model, arrays, binary=binary))
        assert answer.status_code == 200, answer.text
        same(kserve.read_rest(answer.content, answer.headers)[1], expected)
        if binary or dtype != np.float16:
            same(kserve.read_grpc(call(kserve.grpc(model, arrays, binary=binary))), expected)


@pytest.mark.parametrize("binary", [True, False])
def test_bytes_of_another_width_are_refused(rest, call, binary):
    arrays, _ = given("tagger")
    body, headers = kserve.rest("tagger", arrays)
    for datatype in ("FP16", "FP64"):
        changed = body.replace(b'"FP32"', f'"{datatype}"'.encode())
        assert rest("tagger", changed, headers).status_code == 400
        request = kserve.grpc("tagger", arrays)
        request.inputs[0].datatype = datatype
        with pytest.raises(grpc.RpcError, match="bytes, expected"):
            call(request)


def test_a_number_that_the_model_cannot_hold_is_refused(rest, call):
    x = np.zeros((1, 1, FEATURES))
    for value, status in ((1e39, 400), (-1e300, 400), (3.4e38, 200), (1e-300, 200)):
        x[0, 0, 0] = value
        for binary in (True, False):
            answer = rest("tagger", *kserve.rest("tagger", {"x": x}, binary=binary))
            assert answer.status_code == status, (value, answer.text)
            if status == 400:
                assert "does not fit into FP32" in answer.json()["error"]
                with pytest.raises(grpc.RpcError, match="does not fit into FP32"):
                    call(kserve.grpc("tagger", {"x": x}, binary=binary))
    x[0, 0, 0] = np.inf  # is one before and after
    assert rest("tagger", *kserve.rest("tagger", {"x": x})).status_code in (200, 422)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_with_halves_and_doubles(rest, call, binary):
    for triton, address in ((triton_http, rest.address), (triton_grpc, call.address)):
        with triton.InferenceServerClient(address) as client:
            for model, dtype in (("tagger", np.float64), ("halves", np.float16), ("adder", np.float64)):
                arrays, expected = given(model, dtype)
                inputs = []
                for name, array in arrays.items():
                    inputs.append(triton.InferInput(name, list(array.shape), kserve.DATATYPES[array.dtype.name]))
                    if triton is triton_http and array.dtype != np.float16:
                        inputs[-1].set_data_from_numpy(array, binary_data=binary)
                    else:
                        inputs[-1].set_data_from_numpy(array)
                found = client.infer(model, inputs)
                same({name: found.as_numpy(name) for name in expected}, expected)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_with_gzip(rest, binary):
    with triton_http.InferenceServerClient(rest.address) as client:
        for model in ("tagger", "reader", "adder"):
            arrays, expected = given(model)
            inputs = []
            for name, array in arrays.items():
                inputs.append(triton_http.InferInput(name, list(array.shape), kserve.DATATYPES[array.dtype.name]))
                inputs[-1].set_data_from_numpy(array, binary_data=binary)
            found = client.infer(model, inputs, request_compression_algorithm="gzip")
            same({name: found.as_numpy(name) for name in expected}, expected)


REFUSED = [
    ({"binary_data_size": 59}, "binary_data_size 59|59 bytes"),
    ({"binary_data_size": "120"}, "binary_data_size"),
    ({"shared_memory_region": "a"}, "'shared_memory_region' is not supported"),
]


@pytest.mark.parametrize(("parameters", "reason"), REFUSED)
def test_parameters_that_say_something_else(rest, call, parameters, reason):
    arrays, _ = given("tagger")
    request = kserve.grpc("tagger", arrays)
    request.inputs[0].ClearField("parameters")
    kserve._set(request.inputs[0].parameters, parameters)
    with pytest.raises(grpc.RpcError, match=reason):
        call(request)
    body, headers = kserve.rest("tagger", arrays)
    head = json.loads(body[: int(headers[kserve.LENGTH])])
    head["inputs"][0]["parameters"].update(parameters)
    head = json.dumps(head).encode()
    answer = rest("tagger", head + body[int(headers[kserve.LENGTH]) :], {kserve.LENGTH: str(len(head))})
    assert answer.status_code == 400 and re.search(reason, answer.json()["error"]), answer.text


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
@pytest.mark.parametrize("place", ["request", "input", "output"])
def test_parameters_are_strings_numbers_and_booleans(rest, place, value):
    arrays, _ = given("tagger")
    asked = json.loads(kserve.rest("tagger", arrays, binary=False, outputs={"tags": None})[0])
    whose = {"request": asked, "input": asked["inputs"][0], "output": asked["outputs"][0]}[place]
    whose["parameters"] = {"other": value}
    answer = rest("tagger", json.dumps(asked), {})
    assert answer.status_code == 400 and "'other'" in answer.text
    whose["parameters"] = {"other": 1.5}
    assert rest("tagger", json.dumps(asked), {}).status_code == 200


def test_keys_are_unique_at_every_depth(rest):
    text = kserve.rest("tagger", given("tagger")[0], binary=False, outputs={"tags": {"binary_data": False}})[0].decode()
    for key in (
        "id",
        "model_name",
        "inputs",
        "name",
        "shape",
        "datatype",
        "data",
        "outputs",
        "parameters",
        "binary_data",
    ):
        again = text.replace(f'"{key}":', f'"{key}":null,"{key}":', 1)
        answer = rest("tagger", again, {})
        assert answer.status_code == 400 and f"key '{key}' is twice" in answer.json()["error"]
    many = text[:-1] + ',"parameters":{' + ",".join(f'"a{number}":1' for number in range(2000)) + "}}"
    assert rest("tagger", many, {}).status_code == 200
    answer = rest("tagger", "[" + ",".join(["{}"] * 5000) + "]", {})
    assert answer.status_code == 400 and "more than 4096 objects" in answer.text


def test_a_model_name_that_is_none(rest):
    asked = json.loads(kserve.rest("tagger", given("tagger")[0], binary=False)[0])
    for wrong in (None, 3, ["tagger"]):
        assert rest("tagger", json.dumps({**asked, "model_name": wrong}), {}).status_code == 400


def test_two_tokens_are_none():
    tokens = ("first-token-of-two", "second-token-of-two")
    request = kserve.grpc("tagger", given("tagger")[0])
    kind, answer, _ = methods()["ModelInfer"]
    with running_grpc(tokens) as (address, _, _), grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer", kind.SerializeToString, answer.FromString)
        both = [("authorization", f"Bearer {token}") for token in tokens]
        assert infer(request, metadata=both[:1]).model_name == "tagger"
        for metadata in (both, both[:1] * 2):
            with pytest.raises(grpc.RpcError, match="2 values of 'authorization'") as error:
                infer(request, metadata=metadata)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_of_a_stranger_no_message_is_read():
    """Without a token, a call is refused before its message is there; what is free answers none the less."""
    with running_grpc(("a-token-of-a-client",)) as (address, _, _), grpc.insecure_channel(address) as channel:
        infer = channel.stream_unary(f"/{SERVICE}/ModelInfer")  # whose message never comes

        refused = threading.Event()

        def never():
            refused.wait(30)
            yield b""

        with pytest.raises(grpc.RpcError) as error:
            infer(never(), timeout=30)
        refused.set()
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        kind, answer, _ = methods()["ModelReady"]
        ready = channel.unary_unary(f"/{SERVICE}/ModelReady", kind.SerializeToString, answer.FromString)
        assert ready(kind(name="tagger")).ready
        with pytest.raises(grpc.RpcError) as error:
            ready(kind(name="stranger"))
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
