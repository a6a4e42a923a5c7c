def products() -> object: ...  # a PyCapsule
