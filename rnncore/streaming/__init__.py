"""How a network runs over a sequence that arrives piece by piece.

    timing   how many steps of a value are known after so many steps of the input
    flow     follows the time axis through a Spec, or says which node prevents it: the Plan of a stream
    rows     the states of many rows, and one step of some of them through the graph

rnncore.stream and rnncore.pool are what users see of it.
"""
