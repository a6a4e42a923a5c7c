"""Model files -> arrays, or Spec and Weights, without any framework, and without trusting the file.

    registry.py          FORMATS and GRAPH_FORMATS; read_file, read_checkpoint, read_listing
    checkpoint.py        Checkpoint: the tensors of a file by name, their dtypes, what was skipped, metadata
    torch/               torch.save's zip and older stream (.pt, .pth, .bin); names of PyTorch's tensors
    safetensors_file.py  safetensors
    npz_file.py          numpy's .npz and .npy
    native.py            rnncore's own file, a safetensors file with a Spec
    onnx/                ONNX
    keras/               Keras's .keras and .h5, over hdf5_file.py
    graph_format.py      what formats with a network in the file have;  listing.py  what rnncore inspect shows of one
    sharded.py           weights in several files with an index
    plain_weights.py     what modules compute with: normalized weights and packed integers -> plain weights
    loading.py           load, save, convert;  verification.py  replaying a test pair
    _arrays.py           dtypes, and bytes -> arrays
    _foreign.py          what a file of another format seems to be

``read_file(path)`` chooses by content, never by the name of the file. A new format is one file and one line of
FORMATS, where its files hold tensors, or of GRAPH_FORMATS, where they hold the network too.

Decisions

- A checkpoint has its file's names; plain_weights has those of plain modules: parts of a normalized weight, packed
  integers and Keras's kernels become the weights that a Spec's nodes read, and `inspect` shows both.
- A file of tensors gives a Checkpoint, a file with its network Spec and weights (`FORMATS`, `GRAPH_FORMATS`). A
  graph format has a Listing too, so that `inspect` shows what cannot be run.
- One JSON value in the native file's metadata, with sorted keys: the same model gives the same bytes.
- pyfive reads HDF5, but not before us: each object header is walked first, and the bytes it reads are counted.
"""

from rnncore.formats.checkpoint import Checkpoint, Skipped
from rnncore.formats.graph_format import GraphFormat
from rnncore.formats.registry import FORMATS, GRAPH_FORMATS, Format, read_checkpoint, read_file, read_listing

__all__ = [
    "FORMATS",
    "GRAPH_FORMATS",
    "Checkpoint",
    "Format",
    "GraphFormat",
    "Skipped",
    "read_checkpoint",
    "read_file",
    "read_listing",
]
