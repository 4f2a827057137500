"""Sizes and durations: what people write, exactly, or an error that says what is allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderdb.base.units import format_duration_ms, format_size, parse_duration_ms, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("128MB", 128 << 20),
        ("16KB", 16384),
        ("1.5GB", 3 << 29),
        ("0", 0),
        (4096, 4096),
        ("2 tb", 2 << 40),
        ("512 kiB", 512 << 10),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("60s", 60_000),
        ("6h", 21_600_000),
        ("1d", 86_400_000),
        ("500ms", 500),
        (30, 30_000),
        ("1.5s", 1500),
        ("2min", 120_000),
        ("7d", 604_800_000),
    ],
)
def test_durations(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "12XB", "1e3", "٣MB", "0.3B", "99999999999999999999TB", True, "5s"])
def test_bad_sizes_name_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="MB") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["", "s", "-1s", "10 parsecs", "off", False, "0.0001s"])
def test_bad_durations_name_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="60s") as caught:
        parse_duration_ms(text)
    assert repr(text) in str(caught.value)


@given(st.integers(0, 1 << 50))
def test_what_is_printed_parses_back(value: int) -> None:
    assert parse_size(format_size(value)) == value
    assert parse_duration_ms(format_duration_ms(value)) == value
