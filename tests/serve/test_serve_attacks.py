"""Attacks for as long as a test run has time for: see serve_attacks.py."""

import pytest
from serve_attackers import ATTACKS
from serve_attacks import check, end_under, once, target


@pytest.fixture(scope="module")
def attacked():
    with target() as found:
        yield found


# A thousand TLS handshakes keep the attacker's Python busy for longer than a test has.
@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"idle_handshaken"}))
def test_a_client_with_a_token_is_answered(attacked, name):
    check(name, once(name, 0.5, *attacked, at_least=12))


def test_the_end_comes_under_attack():
    with target() as (server, _, _):
        idle = end_under(None, server, None)
    with target() as (server, chain, _):
        seconds = end_under("handshakes", server, chain)
        assert server.events[-1]["event"] == "ended"
    assert seconds < 5.0 * max(1.0, idle)  # an idle server's end takes its drain, half a second, where cores are free
