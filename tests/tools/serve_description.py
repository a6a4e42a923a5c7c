"""schemathesis over the service's OpenAPI description: no answer that is not described, and no error of the server.

    python tests/tools/serve_description.py --examples 100     (pip: schemathesis)

All its checks are on. That every request of the described form is accepted holds for those that also obey what JSON
Schema cannot say (an input has as many numbers as its shape says); serve_description_hooks.py makes them do that.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import _helpers  # noqa: F401
from serve_processes import save_models, server_process
from served import models


def run(examples):
    with tempfile.TemporaryDirectory() as folder, server_process(save_models(folder, models())) as server:
        address = f"http://127.0.0.1:{server.port}/openapi.json"
        words = ["--max-examples", str(examples), "--checks", "all"]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "serve_description_hooks"}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        program = "from schemathesis.cli import schemathesis; schemathesis()"
        code = subprocess.run([sys.executable, "-c", program, "run", address, *words], env=environment).returncode
        assert server.process.poll() is None, "the server is gone"
        errors = [event for event in server.events if "traceback" in event]
        assert not errors, errors[0]
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50)
    sys.exit(run(parser.parse_args().examples))
