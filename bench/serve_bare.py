"""The peer of bench/serve.py: onnxruntime behind Starlette and nothing else, as one would write it in an afternoon.

/infer      a body of float32 is the array of the ONNX model's input; the answer's is its output's
/v2/infer   the same work that rnncore serve does to a request: the protocol's JSON, then the array, both ways

A request's array is the model's whole batch. Nothing is put together, checked, counted, bounded or logged.

    python bench/serve_bare.py MODEL.onnx --port 0 --threads 1
"""

import argparse
import asyncio
import json
import sys

import numpy as np
import onnxruntime
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

LENGTH = "Inference-Header-Content-Length"


def make_app(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape

    def run(body):
        return session.run(None, {"x": np.frombuffer(body, np.float32).reshape(shape)})[0].tobytes()

    async def infer(request):
        return Response(await asyncio.to_thread(run, await request.body()), media_type="application/octet-stream")

    async def infer_v2(request):
        body, size = await request.body(), int(request.headers[LENGTH])
        (given,) = json.loads(body[:size])["inputs"]
        array = np.frombuffer(body, np.float32, offset=size).reshape(given["shape"])
        found = await asyncio.to_thread(lambda: session.run(None, {given["name"]: array})[0])
        output = {"name": "rnn", "datatype": "FP32", "shape": list(found.shape)}
        output["parameters"] = {"binary_data_size": found.nbytes}
        head = json.dumps({"model_name": "lstm", "outputs": [output]}).encode()
        headers = {LENGTH: str(len(head))}
        return Response(head + found.tobytes(), media_type="application/octet-stream", headers=headers)

    return Starlette(
        routes=[Route("/infer", infer, methods=["POST"]), Route("/v2/infer", infer_v2, methods=["POST"])],
    )


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(json.dumps({"event": "ready", "port": port}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    app = make_app(given.model, given.threads)
    Server(uvicorn.Config(app, port=given.port, log_config=None, access_log=False)).run()
