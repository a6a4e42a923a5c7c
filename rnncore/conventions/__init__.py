"""Other frameworks' conventions: the order of gates, raw arrays of one layer, and which framework wrote them.

gates   orders and forms of gates, each a function to the canonical one
layers  RNN, LSTM and GRU from raw arrays
detect  which convention raw arrays follow
"""
