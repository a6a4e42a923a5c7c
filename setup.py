"""Builds the compiled modules. RNNCORE_BUILD = release (default), debug, asan, tsan or coverage chooses the flags.

RNNCORE_ISAS names the instruction sets whose kernels are built, "avx2" or "avx512 baseline"; without it, all that the
architecture has.
"""

import os
import re
from pathlib import Path

import numpy
import scipy
from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = Path("rnncore/kernels")

# NaN, infinities and rounding are part of the contract, so nothing here may imply -ffast-math.
FLAGS = {
    "release": (["-O3", "-g0"], []),
    "debug": (["-O0", "-g3", "-UNDEBUG"], []),
    # What is undefined ends the process like a wrong address does: a report that a test survives would be overlooked.
    "asan": (
        [
            *("-O1", "-g1", "-UNDEBUG", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
            "-fno-omit-frame-pointer",
        ],
        ["-fsanitize=address,undefined"],
    ),
    "tsan": (["-O1", "-g1", "-UNDEBUG", "-fsanitize=thread", "-fno-omit-frame-pointer"], ["-fsanitize=thread"]),
    "coverage": (["-O0", "-g3", "--coverage"], ["--coverage"]),
}
ALWAYS = ["-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-Wall", "-Wno-unused-function"]

# CPython's own flags bring -fwrapv, which keeps gcc from simplifying addresses in the kernels' loops: half the speed.
NO_WRAP = ["-fno-wrapv"]

# The kernels' instruction sets: a header each, in isa/. Folders with a body.h are compiled once for each of them.
ISAS = sorted(path.stem for path in (KERNELS / "isa").glob("*.h") if path.stem != "isas")
SHIMS = Path("build/shims")

# name -> folder of its C sources, and whether a * b + c may become one fused operation: the packed kernels are built
# from it, everywhere alike; elsewhere results are those of separate operations on every machine. A folder belongs to
# one extension; what others need of it they cimport.
EXTENSIONS = {
    "_activations": (None, "off"),
    "_blas": (None, "off"),
    "_blas_loop": (None, "off"),
    "_convolution": ("convolution", "fast"),
    "_graph": (None, "off"),
    "_linear": (None, "off"),
    "_loop": (None, "off"),
    "_normalization": (None, "off"),
    "_packing": ("recurrent", "fast"),
    "_pool": (None, "off"),
    "_pooling": ("pooling", "off"),
    "_program": (None, "off"),
    "_quantized": ("quantized", "off"),
    "_recurrent": (None, "off"),
    "_runtime": ("runtime", "off"),
    "_schedule": (None, "off"),
}


def declare_blas_int() -> None:
    """SciPy names the integer of its BLAS from 1.18 on; before, it is int."""
    declared = "blas_int" in (Path(scipy.__file__).parent / "linalg/cython_blas.pxd").read_text(encoding="utf-8")
    text = "from scipy.linalg.cython_blas cimport blas_int\n" if declared else "ctypedef int blas_int\n"
    target = KERNELS / "_blas_int.pxi"
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


def chosen_isas() -> list[str]:
    """The words of RNNCORE_ISAS, in the order of isa/isas.h."""
    words = os.environ.get("RNNCORE_ISAS", "").split()
    if set(words) - set(ISAS):
        raise SystemExit(f"RNNCORE_ISAS={' '.join(words)!r}, expected some of {', '.join(ISAS)}")
    listed = re.findall(r"entry\((\w+)\)", (KERNELS / "isa/isas.h").read_text(encoding="utf-8"))
    return [name for name in dict.fromkeys(listed) if name in words]


def shims(folder: str, isas: list[str]) -> list[str]:
    """A source for each instruction set: its header, then the folder's kernels (if this architecture has it)."""
    SHIMS.mkdir(parents=True, exist_ok=True)
    template = (KERNELS / "isa/shim.c.in").read_text(encoding="utf-8")
    paths = []
    for isa in isas:
        text = template.format(isa=isa, folder=folder)
        path = SHIMS / f"{folder}_{isa}.c"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        paths.append(str(path))
    return paths


def extension(name: str, folder: str | None, contract: str) -> Extension:
    build = os.environ.get("RNNCORE_BUILD", "release")
    if build not in FLAGS:
        raise SystemExit(f"RNNCORE_BUILD={build!r}, expected one of {', '.join(FLAGS)}")
    compile_flags, link_flags = FLAGS[build]
    isas = chosen_isas()
    sources = sorted(str(path) for path in (KERNELS / folder).glob("*.c")) if folder else []
    macros = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
    if folder and (KERNELS / folder / "body.h").exists():
        sources += shims(folder, isas or ISAS)
    if isas:
        macros.append(("RNNCORE_EACH_ISA(entry)", " ".join(f"entry({name})" for name in isas)))
    return Extension(
        f"rnncore.kernels.{name}",
        [str(KERNELS / f"{name}.pyx"), *sources],
        include_dirs=[numpy.get_include(), str(KERNELS)],
        depends=[str(path) for path in KERNELS.glob("**/*.h")],
        define_macros=macros,
        extra_compile_args=[*ALWAYS, *NO_WRAP, f"-ffp-contract={contract}", *compile_flags],
        extra_link_args=link_flags,
    )


declare_blas_int()
setup(
    ext_modules=cythonize([extension(name, *how) for name, how in EXTENSIONS.items()]),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
