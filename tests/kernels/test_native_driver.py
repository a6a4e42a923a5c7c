"""The packed kernels without Python: a C driver over the same table of instruction sets, against double.

``make neon`` builds the same driver for 64-bit ARM and runs it under emulation.
"""

import subprocess
from pathlib import Path

from paths import ROOT

from rnncore.kernels import _runtime

SOURCES = ("recurrent/dispatch.c", "runtime/usable.c")
FLAGS = [
    "-std=gnu11",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wno-unused-function",
]


def test_every_instruction_set_of_this_machine(tmp_path):
    kernels = ROOT / "rnncore/kernels"
    program = tmp_path / "driver"
    sources = [*(str(kernels / name) for name in SOURCES), str(ROOT / "tests/native/driver.c")]
    isas = _runtime.usable_isas()
    shim = (kernels / "isa/shim.c.in").read_text()
    for name in isas:
        sources.append(str(tmp_path / f"{name}.c"))
        Path(sources[-1]).write_text(shim.format(isa=name, folder="recurrent"))
    listed = "-DRNNCORE_EACH_ISA(entry)=" + " ".join(f"entry({name})" for name in isas)
    subprocess.run(["gcc", *FLAGS, listed, f"-I{kernels}", *sources, "-o", str(program), "-lm"], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == isas
    assert all(line.endswith(" 1044 checks, 0 failures so far") for line in done.stdout.splitlines())
