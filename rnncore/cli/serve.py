"""rnncore serve: models as a service."""

from __future__ import annotations

from typing import Any

import click

from rnncore.cli.options import dtype_option
from rnncore.errors import InputError, MissingPackageError
from rnncore.formats import loading
from rnncore.runtime.budget import Budget

__all__ = ["serve"]

AMOUNT = click.FloatRange(min=1)
BYTES = click.IntRange(min=1)
SECONDS = click.FloatRange(min=0.001)


@click.command(short_help="Answer requests over the network.")
@click.argument("models", metavar="NAME=MODEL...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need --token-file.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port for HTTP; 0: any.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port for gRPC, which is off without it; 0: any.")
@click.option("--token-file", metavar="FILE", help="Tokens, one in each line: requests must carry one of them.")
@click.option("--ssl-certfile", metavar="FILE", help="Certificate: TLS on all ports.")
@click.option("--ssl-keyfile", metavar="FILE", help="Its key.")
@click.option("--max-batch-size", type=BYTES, default=256, show_default=True, help="Rows run together.")
@click.option(
    "--max-wait", type=click.FloatRange(0, 10), default=0.0, show_default=True, help="Seconds to fill a batch."
)
@click.option("--max-queue-size", type=BYTES, default=1024, show_default=True, help="Requests that may wait, by model.")
@click.option("--max-body-size", type=BYTES, default=64 << 20, show_default=True, help="Bytes of a request.")
@click.option("--max-steps", type=BYTES, default=1 << 18, show_default=True, help="Rows times steps of a request.")
@click.option("--max-work", type=AMOUNT, default=1e12, show_default=True, help="Operations of one call of a model.")
@click.option("--max-memory", type=AMOUNT, default=4.0 * 2**30, show_default="4 GiB", help="Bytes of its arrays.")
@click.option("--max-sequences", type=BYTES, default=1024, show_default=True, help="Open sequences, by model.")
@click.option("--sequence-idle", type=SECONDS, default=600.0, show_default=True, help="Seconds until one is closed.")
@click.option("--timeout", type=SECONDS, default=30.0, show_default=True, help="Seconds until work must have begun.")
@click.option("--drain", type=SECONDS, default=1.0, show_default=True, help="Seconds for open connections at the end.")
@click.option("--max-connections", type=BYTES, default=1024, show_default=True, help="Open connections, of each port.")
@click.option("--max-peer-connections", type=BYTES, default=512, show_default=True, help="HTTP, of one address.")
@click.option("--request-log/--no-request-log", default=True, show_default=True, help="A line for each request.")
@click.option("--spec", "specs", metavar="NAME=FILE.json", multiple=True, help="What a file of bare weights is.")
@dtype_option
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    grpc_port: int | None,
    token_file: str | None,
    ssl_certfile: str | None,
    ssl_keyfile: str | None,
    drain: float,
    max_connections: int,
    max_peer_connections: int,
    request_log: bool,
    specs: tuple[str, ...],
    dtype: str,
    max_work: float,
    max_memory: float,
    **limits: Any,
) -> None:
    """Serves models over HTTP, and with --grpc-port over gRPC, by the Open Inference Protocol v2.

    What runs against a Triton or KServe server runs against this one. Models are those of the command line; none is
    loaded over the network. SIGTERM answers what was accepted and ends.

    \b
    Example:
        rnncore serve sunspots=zoo:sunspots
        curl localhost:8000/v2/models/sunspots
    """
    try:
        from rnncore.serve import Limits, Service
        from rnncore.serve.server import Binding, read_tokens, run
    except ImportError:
        raise MissingPackageError(
            'serving needs starlette and uvicorn, install them: pip install "rnncore[serve]"'
        ) from None
    if grpc_port is not None:
        try:
            import rnncore.serve.grpc_service  # noqa: F401
        except ImportError:
            raise MissingPackageError('--grpc-port needs grpcio, install it: pip install "rnncore[grpc]"') from None
    binding = Binding(
        host,
        port,
        grpc_port,
        read_tokens(token_file),
        ssl_certfile,
        ssl_keyfile,
        drain,
        max_connections=max_connections,
        max_peer_connections=max_peer_connections,
    )
    of_models = _pairs(specs, "--spec")
    paths = _pairs(models, "model")
    for name in of_models:
        if name not in paths:
            raise InputError(f"--spec {name}=...: no model {name!r}, expected one of {', '.join(paths)}")
    budget = Budget(max_work, max_memory)
    loaded = {
        name: loading.load(path, spec=of_models.get(name), dtype=dtype, budget=budget) for name, path in paths.items()
    }
    run(Service(loaded, Limits(**limits)), binding, request_log)


def _pairs(given: tuple[str, ...], what: str) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, mark, value = text.partition("=")
        if not (name and mark and value):
            raise click.UsageError(f"{what} {text!r}, expected NAME=FILE")
        if name in pairs:
            raise click.UsageError(f"{what} {name!r} is there twice")
        pairs[name] = value
    return pairs
