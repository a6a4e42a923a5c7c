"""How a network runs over a sequence that arrives piece by piece.

timing     how many steps of a value are known after so many steps of the input
flow       follows the time axis through a Spec, or says which node prevents it: the Plan of a stream
both_ways  a recurrent node that reads ahead;  program  a Plan compiled for a model
route      a group of rows through the graph, settled for a number of steps;  rows  the states of many
folded     the same for rows without a batch, one behind the other along the time
over_time  a model of one step as one of sequences
straight   the short way of a stream through a graph that keeps no steps
stream     Stream: one caller's;  pool  StreamPool: those of many
"""
