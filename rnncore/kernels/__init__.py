"""All compiled code.

    _engine.pyx        the time loop, GIL released
    _blas.pyx          row-major products over SciPy's cython_blas, imported at first use
    cell.h             what a cell does after the products
    activations.h      activation functions
"""
