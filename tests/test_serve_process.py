"""`rnncore serve` as a process: both ports, TLS, tokens from a file, what it logs, how it ends."""

import datetime
import json
import signal
import ssl
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from serve_processes import save_models, server_process
from served import FEATURES, tagger

TOKEN = "a-token-in-a-file"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"), {"tagger": tagger()})


def ask(triton, address, **options):
    x = np.random.default_rng(0).standard_normal((2, 3, FEATURES)).astype(np.float32)
    given = triton.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    with triton.InferenceServerClient(address) as client:
        found = client.infer("tagger", [given], **options).as_numpy("tags")
    assert np.array_equal(found, tagger()(x))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_ports_and_the_end(files, number):
    with server_process(files, "--grpc-port", "0") as server:
        ask(tritonclient.http, f"127.0.0.1:{server.port}")
        ask(tritonclient.grpc, f"127.0.0.1:{server.events[0]['grpc_port']}")
        server.process.send_signal(number)
        assert server.wait() == 0
    assert [event["event"] for event in server.events] == ["ready", "request", "request", "draining", "ended"]
    assert server.events[-1]["models"] == {"tagger": {"accepted": 2, "completed": 2}}
    assert [event["model"] for event in server.events[1:3]] == ["tagger"] * 2


def test_no_lines_for_requests(files):
    with server_process(files, "--no-request-log") as server:
        ask(tritonclient.http, f"127.0.0.1:{server.port}")
        server.process.send_signal(signal.SIGTERM)
        server.wait()
    assert [event["event"] for event in server.events] == ["ready", "draining", "ended"]


def test_tokens_from_a_file(files, tmp_path):
    path = tmp_path / "tokens"
    path.write_text(TOKEN + "\n")
    headers = {"authorization": f"Bearer {TOKEN}"}
    with server_process(files, "--grpc-port", "0", "--token-file", str(path)) as server:
        for triton, port in (
            (tritonclient.http, server.port),
            (tritonclient.grpc, server.events[0]["grpc_port"]),
        ):
            with pytest.raises(triton.InferenceServerException, match="token"):
                ask(triton, f"127.0.0.1:{port}")
            ask(triton, f"127.0.0.1:{port}", headers=dict(headers))
        text = json.dumps(server.events)
    assert TOKEN not in text


def test_tls(files, tmp_path):
    chain, key = certificate(tmp_path)
    with server_process(files, "--ssl-certfile", chain, "--ssl-keyfile", key) as server:
        context = ssl.create_default_context(cafile=chain)
        with urllib.request.urlopen(f"https://localhost:{server.port}/v2/models/tagger", context=context) as answer:
            assert json.load(answer)["name"] == "tagger"


def certificate(folder):
    """A certificate of localhost, signed by itself, and its key: names of two files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return str(chain), str(private)
