"""Malformed requests, as many as a test run has time for: see serve_malformed.py."""

from malformed_requests import Attack
from serve_malformed import run


def test_malformed_requests_get_a_reason_and_end_nothing():
    found = []
    run(1500, 5, found.append)
    kinds = {line.split()[0] for line in found[:-1]}
    assert kinds == set(Attack(0).kinds)
