"""`Speed`: what fits into a time, for models of any speed."""

from __future__ import annotations

import itertools

import pytest

from codeclippy_ls.doctor import Report, _report_speed
from codeclippy_ls.inference.speed import Speed

PREFILL = [0.00002, 0.0003, 0.002, 0.0038, 0.02, 0.3]


def test_prompts_are_as_long_as_can_be_read_in_four_seconds() -> None:
    """But for a power of two, the context, and a minimum without which nothing could be written."""
    for seconds in PREFILL:
        limit = Speed(seconds, 0.05).limit_prompt(100_000)
        assert limit == 512 or limit == 32768 or 2.5 <= limit * seconds <= 6
        assert limit & (limit - 1) == 0 and Speed(seconds, 0.05).limit_prompt(400) == 400
    assert Speed().limit_prompt(5000) == 5000


def test_slower_machines_read_shorter_chunks_and_get_more_time() -> None:
    """Within bounds: a chunk holds up a key, and a pause while typing is not endless."""
    for fast, slow in itertools.pairwise(Speed(seconds, 20 * seconds) for seconds in PREFILL):
        assert 192 >= fast.prefill_chunk >= slow.prefill_chunk >= 32
        assert fast.suffix_limit and slow.suffix_limit and fast.suffix_limit >= slow.suffix_limit >= 64
        assert 0.6 <= fast.typing_seconds <= slow.typing_seconds <= 2.0
    assert Speed().prefill_chunk == 192 and Speed().typing_seconds == 0.6


def test_user_is_told_what_to_expect() -> None:
    """Five tokens in the time of a pause are not a working completion, whatever else works."""
    half_a_billion, seven_billion = Speed(0.0038, 0.076), Speed(0.05, 0.7)
    assert half_a_billion.writes_a_line and not seven_billion.writes_a_line and not Speed().describe()
    assert "76 ms a token to write" in half_a_billion.describe()
    for speed, num_slow in ((half_a_billion, 0), (seven_billion, 1)):
        report = Report()
        _report_speed(report, speed)
        assert (report.num_slow, report.num_problems) == (num_slow, 0)


@pytest.mark.parametrize("seconds", PREFILL)
def test_tokens_that_fit_into_a_time_fit(seconds: float) -> None:
    """And one more would not; with an unknown speed nothing is promised."""
    speed = Speed(seconds, 10 * seconds)
    count = speed.count_tokens(5.0)
    assert count == 0 or count * speed.token_seconds <= 5.0
    assert Speed().count_tokens(5.0) == 0
