"""SIGTERM under load, as often as a test run has time for: see serve_drain.py."""

from serve_drain import run


def test_sigterm_loses_no_accepted_request():
    found = []
    run(2, 9, 3, found.append)
    assert "none lost" in found[-1]
