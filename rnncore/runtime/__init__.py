"""A Spec compiled and run.

model              Model: compiled once, called from any thread
program            the steps of calls whose sizes come again, as instructions without Python
recurrent, attention_decoder, control_flow   running one node of each kind;  packing  its weights for the kernels
arguments          what a caller passes becomes what kernels expect, or one clear error
state              what a recurrent network carries, and its bytes
budget             what a call costs, and the limits that a caller sets
threads, config    how many threads; what runs on this machine
types              types of what callers pass and get, for annotations
extensions         methods of Model whose code is in packages that use it

Decisions

- Packed weights are kept once. A Model's Weights hold no second copy of what is packed: reading such a weight
  unpacks it, to the bit. (A folded Embedding's table comes on top; `fold_bytes` says how much.)
- A State takes precedence over initial states of the graph, which take precedence over trained ones: a feature
  vector starts a decoder where no State is given, and with one it goes on.
- What does not depend on the data is settled once. An op's `bound` makes of attributes, ranks and dtypes what is
  called with the arrays alone; a stream's `Route` makes of the steps seen and the new ones the stages that are left
  to run. So a node costs little more than its work.
- Steps first, then a binding. A call of new sizes runs a model's steps in Python, which know any op and say what is
  wrong; when these sizes come a second time the same run of the steps is noted and becomes a Binding, so nothing is
  inferred a second time and shapes cannot disagree. (Not at the first call: sequences of ever new lengths would pay for
  bindings that no call uses.) A binding never reports an error of its own: what it cannot do ends in the steps. Ops
  written as NumPy calls on single elements are recorded, and run by the same loops of NumPy's over blocks
  (`ops/recording.py`): their bits stay, and a new op of this kind needs no kernel to be quick.
- The body of a Scan or Loop is a binding inside the outer one: its inputs and outputs are addresses in the outer
  one's memory, so a step costs its instructions and nothing else.
- A budget costs little where it is kept. What a call costs follows from its inputs' sizes, unless contents decide:
  a model remembers sizes that it could afford and then runs its steps uncounted; a single stack knows a number of
  steps that always is affordable, and its short way goes that far. Streams and pools do the same by rows and steps.
- Weights that share memory are one array, and what is packed of it is one pack, branches included: a storage that
  200 layers name costs what it takes once. What must be copied counts against what the file declares.
- Nothing relies on a GIL (`make nogil`): what is made at first use is stored whole, by one reference, and the
  second thread takes what the first one stored; streams and pools are owned through an atomic flag, counters have
  locks.
- A row of length 0 keeps its state and its output is zeros. (PyTorch refuses such rows; ONNX Runtime returns zeros for
  the state too, and so do models from ONNX files.)
"""
