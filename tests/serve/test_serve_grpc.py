"""tritonclient.grpc, unchanged, against the service; and the messages against the published ones."""

import contextlib
import queue
import socket

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import descriptor_pool
from served import FEATURES, WORDS
from served_grpc import MODELS, running
from stream_models import equal
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from rnncore.serve.messages import message, methods
from rnncore.serve.metrics import exposition

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server[0]) as found:
        yield found


def given(name, array):
    names = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "bool": "BOOL"}
    found = triton.InferInput(name, list(array.shape), names[array.dtype.name])
    found.set_data_from_numpy(array)
    return found


def features(batch, steps):
    return RNG.standard_normal((batch, steps, FEATURES)).astype(np.float32)


def test_messages_are_a_part_of_the_published_ones():
    published = service_pb2.DESCRIPTOR.pool
    assert published is descriptor_pool.Default()

    def check(own):
        other = published.FindMessageTypeByName(own.full_name)
        for field in own.fields:
            known = other.fields_by_number[field.number]
            assert (field.name, field.type, field.is_repeated) == (known.name, known.type, known.is_repeated)
            if field.message_type is not None:
                assert field.message_type.full_name.rpartition(".")[2] == known.message_type.name or (
                    own.full_name == "inference.ModelConfig"
                )
                check(field.message_type) if field.message_type.full_name.count(".") == 1 else None
            if field.enum_type is not None:
                for value in field.enum_type.values:
                    assert known.enum_type.values_by_number[value.number].name == value.name
        for nested in own.nested_types:
            assert nested.GetOptions().map_entry == other.nested_types_by_name[nested.name].GetOptions().map_entry
            check(nested)

    known = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for name, (request, answer, _) in methods().items():
        method = known.methods_by_name[name]
        assert (request.DESCRIPTOR.full_name, answer.DESCRIPTOR.full_name) == (
            method.input_type.full_name,
            method.output_type.full_name,
        )
        if "Repository" not in name:
            check(request.DESCRIPTOR)
            if name != "ModelConfig":
                check(answer.DESCRIPTOR)
    assert message("ModelInferRequest") is not service_pb2.ModelInferRequest


def test_health_and_metadata(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tagger", "1")
    with pytest.raises(InferenceServerException, match="unknown"):
        client.is_model_ready("stranger")
    assert client.get_server_metadata().name == "rnncore"
    found = client.get_model_metadata("tagger")
    assert [(entry.name, entry.datatype, list(entry.shape)) for entry in found.inputs] == [
        ("x", "FP32", [-1, -1, FEATURES]),
        ("lengths", "INT64", [-1]),
    ]
    config = client.get_model_config("reader").config
    assert config.input[0].data_type == 9 and list(config.input[0].dims) == [-1, -1]
    assert config.sequence_batching.max_sequence_idle_microseconds == 600_000_000
    assert [entry.name for entry in client.get_model_repository_index().models] == list(MODELS)


def test_infer(client):
    x, lengths = features(3, 7), np.array([7, 2, 0])
    found = client.infer("tagger", [given("x", x), given("lengths", lengths)], request_id="mine")
    assert found.get_response().id == "mine"
    assert equal(found.as_numpy("tags"), MODELS["tagger"](x, lengths=lengths))
    ids = RNG.integers(0, WORDS, (2, 6))
    found = client.infer("reader", [given("ids", ids)], outputs=[triton.InferRequestedOutput("gru.h")])
    assert equal(found.as_numpy("gru.h"), MODELS["reader"](ids)["gru.h"])
    assert found.as_numpy("gru.last") is None
    a, keep = RNG.standard_normal((3, 4)).astype(np.float32), RNG.random((3, 4)) < 0.5
    found = client.infer("adder", [given("a", a), given("keep", keep)])
    assert np.array_equal(found.as_numpy("kept"), a * keep) and np.array_equal(found.as_numpy("keep"), keep)


def test_typed_contents(server):
    with grpc.insecure_channel(server[0]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        x = features(1, 2)
        x[0, 0, 0] = np.nan
        asked = service_pb2.ModelInferRequest(model_name="tagger")
        entry = asked.inputs.add(name="x", datatype="FP32", shape=[1, 2, FEATURES])
        entry.contents.fp32_contents.extend(x.ravel().tolist())
        answer = stub.ModelInfer(asked)
        expected = MODELS["tagger"](x)
        assert answer.raw_output_contents[0] == expected.tobytes()
        for change, reason in (
            (lambda one: one.contents.fp32_contents.append(1), "11 numbers, expected 10"),
            (lambda one: one.contents.int64_contents.append(1), "int64_contents, expected fp32_contents"),
            (lambda one: one.shape.append(-1), "shape has -1"),
        ):
            wrong = service_pb2.ModelInferRequest()
            wrong.CopyFrom(asked)
            change(wrong.inputs[0])
            with pytest.raises(grpc.RpcError, match=reason) as error:
                stub.ModelInfer(wrong)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        asked.raw_input_contents.append(x.tobytes())
        with pytest.raises(grpc.RpcError, match="both contents and raw_input_contents"):
            stub.ModelInfer(asked)
        asked.raw_input_contents.append(b"")
        with pytest.raises(grpc.RpcError, match="2 raw_input_contents, expected none or one"):
            stub.ModelInfer(asked)


@pytest.mark.parametrize("sequence", [7, "ann"])
def test_a_sequence_is_a_stream(client, sequence):
    x = features(1, 12)
    whole = MODELS["tagger"](x)
    for begin, end in ((0, 1), (1, 6), (6, 12)):
        options = {"sequence_id": sequence, "sequence_start": begin == 0, "sequence_end": end == 12}
        found = client.infer("tagger", [given("x", x[:, begin:end])], **options)
        assert equal(found.as_numpy("tags"), whole[:, begin:end])
    with pytest.raises(InferenceServerException, match="sequence_start"):
        client.infer("tagger", [given("x", x)], sequence_id=sequence)


def test_a_bidirectional_call_carries_sequences_in_order(client):
    x, answers = features(2, 40), queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        for t in range(40):
            for row in (0, 1):
                options = {"sequence_id": 50 + row, "sequence_start": t == 0, "sequence_end": t == 39}
                part = given("x", x[row : row + 1, t : t + 1])
                client.async_stream_infer("tagger", [part], request_id=f"{row} {t}", **options)
        whole = MODELS["tagger"](x)
        for t in range(40):
            for row in (0, 1):
                result, error = answers.get(timeout=60)
                assert error is None and result.get_response().id == f"{row} {t}"
                assert equal(result.as_numpy("tags")[0, 0], whole[row, t])
        client.async_stream_infer("stranger", [given("x", x)])
        client.async_stream_infer("tagger", [given("x", x)])
        assert "unknown" in str(answers.get(timeout=60)[1])  # one error does not end the others
        assert answers.get(timeout=60)[1] is None
    finally:
        client.stop_stream()


@pytest.mark.parametrize(
    ("model", "inputs", "options", "status", "reason"),
    [
        ("stranger", {"x": features(1, 2)}, {}, "NOT_FOUND", "model 'stranger' is unknown"),
        ("tagger", {"x": features(1, 2)}, {"model_version": "2"}, "NOT_FOUND", "no version"),
        ("tagger", {"y": features(1, 2)}, {}, "INVALID_ARGUMENT", "input 'y' is unknown"),
        ("tagger", {}, {}, "INVALID_ARGUMENT", "input 'x' missing"),
        (
            "tagger",
            {"x": np.zeros((1, 2, FEATURES), np.int64)},
            {},
            "INVALID_ARGUMENT",
            "datatype 'INT64', expected FP16",
        ),
        ("tagger", {"x": features(1, 2)[..., :2]}, {}, "INVALID_ARGUMENT", "dimension 2 is 2, not 5"),
        (
            "tagger",
            {"x": features(1, 2)},
            {"parameters": {"shared_memory_region": "a"}},
            "INVALID_ARGUMENT",
            "not supported",
        ),
        ("tagger", {"x": features(1, 2)}, {"sequence_id": 9}, "INVALID_ARGUMENT", "sequence 9 is not open"),
        ("tagger", {"x": features(1, 2)}, {"timeout": -1}, "INVALID_ARGUMENT", "timeout"),
        ("reader", {"ids": np.array([[WORDS]])}, {}, "INVALID_ARGUMENT", "expected 0 to 29"),
    ],
)
def test_refusals(client, model, inputs, options, status, reason):
    with pytest.raises(InferenceServerException) as error:
        client.infer(model, [given(name, array) for name, array in inputs.items()], **options)
    assert error.value.status() == f"StatusCode.{status}"
    assert reason in error.value.message() and "(request " in error.value.message()


def test_no_model_is_loaded_over_the_network(client):
    for ask in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="neither loaded nor unloaded"):
            ask("tagger")


def test_compressed_messages_are_refused(server):
    with triton.InferenceServerClient(server[0]) as client:
        with pytest.raises(InferenceServerException) as error:
            client.infer("tagger", [given("x", features(1, 2))], compression_algorithm="gzip")
        assert error.value.status() == "StatusCode.UNIMPLEMENTED"


def test_tokens_and_sequences_of_their_creators():
    tokens = ("first-token-of-two", "second-token-of-two")
    first, second = ({"authorization": f"Bearer {token}"} for token in tokens)
    with running(tokens) as (address, _, _), triton.InferenceServerClient(address) as client:
        assert client.is_server_ready() and client.is_model_ready("tagger")
        x = given("x", features(1, 1))
        for headers in (None, {"authorization": "Bearer wrong-wrong-wrong"}):
            with pytest.raises(InferenceServerException) as error:
                client.infer("tagger", [x], headers=headers)
            assert error.value.status() == "StatusCode.UNAUTHENTICATED"
        client.infer("tagger", [x], sequence_id=5, sequence_start=True, headers=first)
        with pytest.raises(InferenceServerException, match="sequence 5 is not open"):
            client.infer("tagger", [x], sequence_id=5, sequence_end=True, headers=second)
        client.infer("tagger", [x], sequence_id=5, sequence_end=True, headers=first)


def test_large_messages_are_refused():
    server = running(max_body_size=4000, max_pending_size=3000)
    with server as (address, _, _), triton.InferenceServerClient(address) as client:
        for steps, reason in ((160, "too many bytes"), (60_000, "larger than max")):
            with pytest.raises(InferenceServerException, match=reason):
                client.infer("tagger", [given("x", features(1, steps))])
        client.infer("tagger", [given("x", features(1, 10))])


def test_calls_are_counted(server, client):
    client.infer("tagger", [given("x", features(1, 1))])
    _, service, metrics = server
    text = exposition(service, metrics).decode()
    label = '{model="tagger",route="ModelInfer",status="OK",transport="grpc"}'
    assert f"rnncore_answers_total{label}" in text
    assert "stranger" not in text
    assert client.get_inference_statistics("tagger").model_stats[0].inference_stats.success.count > 0


def test_damaged_messages_end_nothing(server):
    """Flipped, cut and repeated bytes of a valid request: an answer or a reason, never an error of the server."""
    asked = service_pb2.ModelInferRequest(model_name="tagger", id="x")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 3, FEATURES])
    asked.inputs.add(name="lengths", datatype="INT64", shape=[1])
    x = features(1, 3)
    asked.raw_input_contents.extend([x.tobytes(), np.array([2]).tobytes()])
    asked.parameters["sequence_id"].int64_param = 0
    asked.parameters["priority"].uint64_param = 3
    whole, rng, codes = asked.SerializeToString(), np.random.default_rng(1), set()
    with grpc.insecure_channel(server[0]) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for number in range(600):
            damaged = bytearray(whole)
            for _ in range(rng.integers(1, 3)):
                damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
            if number % 3 == 0:
                damaged = damaged[: rng.integers(len(damaged))]
            try:
                infer(bytes(damaged))
            except grpc.RpcError as error:
                codes.add(error.code())
                assert "(request " in error.details(), error.details()
        answer = service_pb2.ModelInferResponse.FromString(infer(whole))
    assert answer.raw_output_contents[0] == MODELS["tagger"](x, lengths=[2]).tobytes()
    expected = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert expected <= codes <= expected | {grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_connections_are_bounded_and_must_be_of_http_2():
    with running(connections=5, handshake_timeout=0.5) as (address, _, _):
        host, port = address.split(":")
        with triton.InferenceServerClient(address) as client:
            assert client.is_server_live()
            several = [socket.create_connection((host, int(port)), timeout=30) for _ in range(20)]
            assert client.is_server_live()
            for one in several:
                with contextlib.suppress(ConnectionResetError):
                    while one.recv(1 << 16):  # its own settings, and then the end: for most of them at once
                        pass
                one.close()
            assert client.is_server_live()
