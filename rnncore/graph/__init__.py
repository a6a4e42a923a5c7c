"""The network of a model, its arrays, and the analysis of its axes.

graph/spec.py       Spec: inputs, nodes and outputs by name
graph/nodes/        the kinds of nodes: each checks itself, infers its values, reads and writes its JSON
graph/builder.py    GraphBuilder: fresh names, constants and nodes for importers of other formats
graph/json.py       a Spec's document in JSON
graph/limits.py     limits of sizes, names, layers and nodes
graph/axes.py       follows a dimension of the inputs through the graph: rows of a batch, or steps of a sequence
graph/weights.py    Weights: named arrays, checked against a Spec
graph/test_pair.py  TestPair: an input with the outputs of the framework the weights are from
graph/vocabulary.py tokens for ids

Decisions

- Cells and ops are below the Spec in the order of imports. They are the vocabulary and the Spec is the sentence: a
  Spec can check its own options, sizes and weight shapes when it is made, and a `Cell` is a frozen dataclass with
  typed options instead of a bag of attributes.
- A Recurrent node is a stack: one cell, a number of layers, one or two directions. Its weights have PyTorch's names
  (`lstm.weight_ih_l0_reverse`) with one bias instead of two. Single layers are stacks of one.
- A node's weights are its own (`Linear`, `Embedding`, `Recurrent`) rather than graph values, so that they can be
  packed once, at load. Ops without weights have ONNX's names and semantics.
- A node's value has the node's name. `lstm` is the sequence, `lstm.last` the output after the last valid step,
  `lstm.h` and `lstm.c` every layer's final states in PyTorch's order. Ops with several outputs do the same:
  `attention` is the context, `attention.weights` its weights.
- What ONNX passes as an input and is usually constant (axes, shapes, starts) is an attribute under the name of that
  input, or an input: a Spec reads well, and a computed shape still works. Small integers are followed while shapes
  are inferred, so that exporters' chains of Shape, Gather and Concat end in a known shape. A size that is not known
  yet is a sum of products of names, "2*T+1" (`ops/sizes.py`), and "?" only where the data decide.
- Control nodes hold Specs, closed: what a branch captures is an input of the node. So a branch can be checked,
  compiled and shown like any network.
- A decoder with attention in its loop is one node, `AttentionDecoder`, not a graph with a delayed value: what is
  fed back would make the graph a cycle, and one node can project the memory once, keep its feed in `State` with h
  and c, and later run compiled. Where nothing is fed back, `Recurrent` and an attention op say the same. It has two
  orders, before (Bahdanau) and after (Luong); everything else is put around it in the graph.
- Optional inputs: an op says which of its inputs may be absent; "" in a node's inputs means absent, as in ONNX.
- `lengths` is an input like any other, optional, declared by the Spec wherever a recurrent node names it.
- A node is inferred once. It keeps the Values that it was last asked with and those it gave, by identity, so a Spec
  made of the same nodes costs a few lookups each; passes say which ops they need (`passes.NEEDS`) and are left out
  of graphs without them.
"""
