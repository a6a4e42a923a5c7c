# Sharing among threads has no names in Python: other compiled modules reach it by cimport.
