"""Limits in seconds of a normal machine can be missed, and are not by a fraction of the yardstick itself."""

import pytest
from yardstick import NORMAL, slowness, within, work


def test_what_is_quick_gives_its_result():
    assert within(20 * NORMAL, work) == work()


def test_what_is_late_three_times_is_an_error():
    calls = []

    def late():
        calls.append(work())

    with pytest.raises(AssertionError, match="of a normal machine"):
        within(NORMAL / 20, late)
    assert len(calls) == 3


def test_no_machine_gets_less_than_the_limit():
    assert slowness() >= 1 and slowness(wall=True) >= 1
