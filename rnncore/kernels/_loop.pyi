# The time loop has no names in Python: other compiled modules reach it by cimport.
