"""Keras files: configs (config, variables), the graph of layers and their masks (graph, use), one module for each
family of layers.

Decisions

- A Keras layer that is called twice is two nodes with the weights in each, since a node's weights are its own.
- Keras's masks are nodes of the graph; those that no node reads are dropped. Keras has no lengths: a graph from
  Keras has `lengths` only where nothing but recurrent layers looks along time, so that they mean the same as a
  mask.
- A ConvLSTM is a Scan of two convolutions, not a Recurrent node: it streams as any Scan does.
"""
