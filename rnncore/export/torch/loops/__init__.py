"""Loops over the steps of a sequence, rolled up again: see rolling."""
