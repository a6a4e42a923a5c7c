"""The stubs of the compiled modules say what these have: names, arguments, defaults, properties."""

import os
import subprocess
import sys
from pathlib import Path

import rnncore.kernels

KERNELS = Path(rnncore.kernels.__file__).parent

# What Cython adds to every module or class.
OF_CYTHON = r".*\.__(test|pyx_capi|reduce_cython|setstate_cython)__"

# Stubs import NumPy and each other; what the rest of the package imports would take seconds.
ONLY_KERNELS = """
[mypy]
follow_imports = skip
[mypy-numpy.*,rnncore.kernels.*]
follow_imports = silent
"""


def test_every_compiled_module_has_a_stub():
    assert sorted(path.stem for path in KERNELS.glob("*.pyi")) == sorted(path.stem for path in KERNELS.glob("*.pyx"))


def test_stubs_agree_with_the_compiled_modules(tmp_path):
    (tmp_path / "allowed").write_text(OF_CYTHON)
    (tmp_path / "mypy.ini").write_text(ONLY_KERNELS)
    command = [sys.executable, "-m", "mypy.stubtest", "rnncore.kernels", "--concise", "--ignore-unused-allowlist"]
    command += ["--ignore-disjoint-bases", "--allowlist", str(tmp_path / "allowed")]
    command += ["--mypy-config-file", str(tmp_path / "mypy.ini")]
    # mypy looks for the package on this path: it does not follow the finders of editable installations.
    environment = {**os.environ, "MYPYPATH": str(KERNELS.parent.parent)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
