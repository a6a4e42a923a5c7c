"""schemathesis over the service's OpenAPI description: no answer that is not described, and no error of the server.

    python tests/serve_description.py --examples 100     (pip: schemathesis)

One of its checks is left out, that every request of the described form is accepted: JSON Schema cannot say that an
input's data have as many numbers as its shape says.
"""

import argparse
import subprocess
import sys
import tempfile

from serve_processes import save_models, server_process
from served import models


def run(examples):
    with tempfile.TemporaryDirectory() as folder, server_process(save_models(folder, models())) as server:
        address = f"http://127.0.0.1:{server.port}/openapi.json"
        words = ["--max-examples", str(examples), "--exclude-checks", "positive_data_acceptance"]
        program = "from schemathesis.cli import schemathesis; schemathesis()"
        code = subprocess.run([sys.executable, "-c", program, "run", address, *words]).returncode
        assert server.process.poll() is None, "the server is gone"
        errors = [event for event in server.events if "traceback" in event]
        assert not errors, errors[0]
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50)
    sys.exit(run(parser.parse_args().examples))
