"""Where a step's time goes: the packed kernels bare, without a call around them. See loops.c.

python bench/loops.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
KERNELS = HERE.parent / "rnncore/kernels"
SOURCES = ("recurrent/dispatch.c", "runtime/usable.c")
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-w", f"-I{KERNELS}")
SHIM = (KERNELS / "isa/shim.c.in").read_text(encoding="utf-8")
COLUMNS = ("step", "beside", "activations", "halves", "meeting", "shared")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "loops"
        sources = [*(KERNELS / name for name in SOURCES), HERE / "loops.c"]
        for isa in sorted(path.stem for path in (KERNELS / "isa").glob("*.h") if path.stem != "isas"):
            sources.append(Path(directory) / f"{isa}.c")
            sources[-1].write_text(SHIM.format(isa=isa, folder="recurrent"))
        subprocess.run(["gcc", *FLAGS, *sources, "-o", program, "-lm", "-lpthread"], check=True)
        print("microseconds of a step of one row, input and output of one size")
        print(f"{'':22}" + "".join(f"{name:>12}" for name in COLUMNS))
        with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as running:
            for line in running.stdout:
                times = json.loads(line)
                title = f"{times['cell']} H{times['H']} {times['isa']}"
                print(f"{title:22}" + "".join(f"{times[name]:12.3f}" for name in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
