"""What can be read off a Spec.

graph/axes.py  follows a dimension of the inputs through the graph: rows of a batch, or steps of a sequence
"""
