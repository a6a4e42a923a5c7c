"""Keras files: configs (config, variables), the graph of layers and their masks (graph, use), one module for each
family of layers."""
