"""Options that several commands share."""

from __future__ import annotations

import click
import pytest

from bundler.cli.options import duration


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1.0), ("90s", 90.0), ("15m", 900.0), ("4h", 14400.0)])
def test_a_time_is_read_with_its_unit(text: str, seconds: float) -> None:
    assert duration(None, None, text) == seconds


@pytest.mark.parametrize("text", ["", "15", "0m", "-1s", "1.5m", "1d", "15 m", "15M", "5h", "241m", "9999999s", "m"])
def test_a_time_without_a_unit_or_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 90s, 15m or 2h, at most 4h"):
        duration(None, None, text)
