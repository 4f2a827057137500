"""Dates, times, timestamps and intervals as text, in PostgreSQL's ISO style, on integers since 2000-01-01.

D1. A date is days, a timestamp microseconds since 2000-01-01 (UTC for timestamptz); the two infinities are the extreme values.
D2. The calendar is the proleptic Gregorian one; the year before 1 AD is 1 BC.
"""

from __future__ import annotations

import re

from thunderdb.base.errors import SqlError

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
MINUTE_US = 60_000_000
SECOND_US = 1_000_000
DATE_INFINITY = (1 << 31) - 1
DATE_MINUS_INFINITY = -(1 << 31)
STAMP_INFINITY = (1 << 63) - 1
STAMP_MINUS_INFINITY = -(1 << 63)
UNIX_EPOCH_DAYS = -10957
_EPOCH_CIVIL = 730425  # days from 0000-03-01 to 2000-01-01, see days_from_civil
_MIN_STAMP = -211_813_488_000_000_000
_END_STAMP = 9_223_371_331_200_000_000

_MONTHS = {m: i + 1 for i, m in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split())}
_DATE = re.compile(r"(\d{4,6})-(\d{1,2})-(\d{1,2})|(\d{4})(\d{2})(\d{2})(?!\d)|(\d{1,2})/(\d{1,2})/(\d{4})", re.ASCII)
_WORD_DATE = re.compile(r"(?:([a-z]{3})[a-z]*\.? (\d{1,2}),? (\d{4})|(\d{1,2})[ -]([a-z]{3})[a-z]*[ -](\d{4}))", re.ASCII)
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?(?:\s*(am|pm)(?![a-z]))?", re.ASCII)
_ZONE = re.compile(r"\s*(z|utc|gmt|zulu|[+-]\d{1,2}(?::?\d{2}(?::?\d{2})?)?)", re.ASCII)
_ZONE_NAME = re.compile(r"\s*([a-z]+(?:[/_][a-z_+\-0-9]+)*)", re.ASCII)
_ABBREVIATIONS = {
    "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7, "wet": 0, "west": 1, "bst": 1,
    "cet": 1, "cest": 2, "eet": 2, "eest": 3, "msk": 3, "jst": 9,
}  # fmt: skip
"""Abbreviations that mean one offset, all year; PostgreSQL's default set has more."""
_INTERVAL_PART = re.compile(r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*([a-zµ]+)", re.ASCII)
_INTERVAL_TIME = re.compile(r"([+-]?)(\d+):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,9}))?)?", re.ASCII)


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 2000-01-01 of a proleptic Gregorian date (year 0 is 1 BC)."""
    year -= month <= 2
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - _EPOCH_CIVIL


def civil_from_days(days: int) -> tuple[int, int, int]:
    days += _EPOCH_CIVIL
    era, day_of_era = divmod(days, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * shifted + 2) // 5 + 1


def month_length(year: int, month: int) -> int:
    following = (year + 1, 1) if month == 12 else (year, month + 1)
    return days_from_civil(*following, 1) - days_from_civil(year, month, 1)


def format_date(days: int) -> str:
    if days == DATE_INFINITY:
        return "infinity"
    if days == DATE_MINUS_INFINITY:
        return "-infinity"
    year, month, day = civil_from_days(days)
    if year > 0:
        return f"{year:04d}-{month:02d}-{day:02d}"
    return f"{1 - year:04d}-{month:02d}-{day:02d} BC"


def format_time(micros: int) -> str:
    seconds, fraction = divmod(micros, SECOND_US)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{fraction:06d}".rstrip("0") if fraction else text


def format_timestamp(micros: int) -> str:
    if micros == STAMP_INFINITY:
        return "infinity"
    if micros == STAMP_MINUS_INFINITY:
        return "-infinity"
    days, rest = divmod(micros, DAY_US)
    date = format_date(days)
    if date.endswith(" BC"):
        return f"{date[:-3]} {format_time(rest)} BC"
    return f"{date} {format_time(rest)}"


def format_timestamptz(micros: int) -> str:
    if micros in (STAMP_INFINITY, STAMP_MINUS_INFINITY):
        return format_timestamp(micros)
    text = format_timestamp(micros)
    return f"{text[:-3]}+00 BC" if text.endswith(" BC") else text + "+00"


def parse_zone(text: str) -> int:
    """Seconds east of UTC. Raises: ValueError."""
    text = text.strip().lower()
    if text in ("z", "utc", "gmt", "zulu", "etc/utc", "etc/gmt", "uct", "etc/uct"):
        return 0
    match = re.fullmatch(r"([+-])(\d{1,2}):?(\d{2})?(?::?(\d{2}))?", text)
    if match is None:
        raise ValueError(text)
    seconds = int(match[2]) * 3600 + int(match[3] or 0) * 60 + int(match[4] or 0)
    if seconds > 15 * 3600 + 59 * 60 + 59:
        raise ValueError(text)
    return -seconds if match[1] == "-" else seconds


def _bad(type_name: str, text: str) -> SqlError:
    return SqlError("22007", f'invalid input syntax for type {type_name}: "{text}"')


def _out_of_range(text: str) -> SqlError:
    return SqlError("22008", f'date/time field value out of range: "{text}"')


def _parse_day(lowered: str, type_name: str, text: str) -> tuple[int, int]:
    """Days and the offset behind the date in the text."""
    match = _DATE.match(lowered)
    if match is not None:
        groups = match.groups()
        if groups[0]:
            year, month, day = int(groups[0]), int(groups[1]), int(groups[2])
        elif groups[3]:
            year, month, day = int(groups[3]), int(groups[4]), int(groups[5])
        else:
            month, day, year = int(groups[6]), int(groups[7]), int(groups[8])
    else:
        match = _WORD_DATE.match(lowered)
        if match is None:
            raise _bad(type_name, text)
        groups = match.groups()
        name = groups[0] or groups[4]
        if name not in _MONTHS:
            raise _bad(type_name, text)
        month, day, year = _MONTHS[name], int(groups[1] or groups[3]), int(groups[2] or groups[5])
    if lowered.rstrip().endswith("bc"):
        year = 1 - year
    elif year == 0:
        raise _out_of_range(text)
    if not 1 <= month <= 12 or not 1 <= day <= month_length(year, month):
        raise _out_of_range(text)
    return days_from_civil(year, month, day), match.end()


def _parse_clock(match: re.Match[str], text: str) -> int:
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[5]:
        if not 1 <= hour <= 12:
            raise _out_of_range(text)
        hour = hour % 12 + (12 if match[5] == "pm" else 0)
    micros = _fraction_us(match[4])
    total = (hour * 3600 + minute * 60 + second) * SECOND_US + micros
    if minute > 59 or second > 60 or total > DAY_US:
        raise _out_of_range(text)
    return total


def _fraction_us(digits: str | None) -> int:
    if not digits:
        return 0
    return int(digits[:6].ljust(6, "0")) + (len(digits) > 6 and digits[6] >= "5")


def parse_date(text: str) -> int:
    """Raises: SqlError 22007 (not a date), 22008 (no such day)."""
    lowered = text.strip().lower()
    if lowered in ("infinity", "-infinity"):
        return DATE_INFINITY if lowered[0] == "i" else DATE_MINUS_INFINITY
    if lowered == "epoch":
        return UNIX_EPOCH_DAYS
    stamp, _ = _parse_stamp(lowered, "date", text)
    return stamp // DAY_US


def parse_timestamp(text: str, type_name: str = "timestamp") -> int:
    """A timestamp, or with type_name "timestamp with time zone" one in UTC, the zone of every session."""
    lowered = text.strip().lower()
    if lowered in ("infinity", "-infinity"):
        return STAMP_INFINITY if lowered[0] == "i" else STAMP_MINUS_INFINITY
    if lowered == "epoch":
        return UNIX_EPOCH_DAYS * DAY_US
    stamp, zone = _parse_stamp(lowered, type_name, text)
    if type_name != "timestamp":
        stamp -= (zone or 0) * SECOND_US
    if not _MIN_STAMP <= stamp < _END_STAMP:
        raise SqlError("22008", f'timestamp out of range: "{text}"')
    return stamp


def _parse_stamp(lowered: str, type_name: str, text: str) -> tuple[int, int | None]:
    days, at = _parse_day(lowered, type_name, text)
    rest = lowered[at:].strip()
    if rest.startswith("t") and rest[1:2].isdigit():
        rest = rest[1:]
    if rest.endswith("bc") or rest.endswith("ad"):
        rest = rest[:-2].strip()
    micros, zone = 0, None
    match = _TIME.match(rest)
    if match is not None:
        micros, rest = _parse_clock(match, text), rest[match.end() :]
    if rest:
        match = _ZONE.fullmatch(rest)
        if match is None:
            return days * DAY_US + micros, _zone_by_name(rest, type_name, text)
        try:
            zone = parse_zone(match[1])
        except ValueError:
            raise SqlError("22009", f'time zone displacement out of range: "{text}"') from None
    return days * DAY_US + micros, zone


def _zone_by_name(rest: str, type_name: str, text: str) -> int:
    match = _ZONE_NAME.fullmatch(rest)
    if match is None:
        raise _bad(type_name, text)
    hours = _ABBREVIATIONS.get(match[1])
    if hours is None:
        hint = "ThunderDB knows UTC, offsets like +02:00 and abbreviations like CET."
        raise SqlError("22023", f'time zone "{match[1]}" not recognized', hint=hint)
    return hours * 3600


def parse_time(text: str) -> int:
    match = _TIME.fullmatch(text.strip().lower())
    if match is None:
        raise _bad("time", text)
    return _parse_clock(match, text)


_UNITS = {
    "us": (0, 0, 1),
    "usec": (0, 0, 1),
    "microsecond": (0, 0, 1),
    "ms": (0, 0, 1000),
    "msec": (0, 0, 1000),
    "millisecond": (0, 0, 1000),
    "s": (0, 0, SECOND_US),
    "sec": (0, 0, SECOND_US),
    "second": (0, 0, SECOND_US),
    "m": (0, 0, MINUTE_US),
    "min": (0, 0, MINUTE_US),
    "minute": (0, 0, MINUTE_US),
    "h": (0, 0, HOUR_US),
    "hr": (0, 0, HOUR_US),
    "hour": (0, 0, HOUR_US),
    "d": (0, 1, 0),
    "day": (0, 1, 0),
    "w": (0, 7, 0),
    "week": (0, 7, 0),
    "mon": (1, 0, 0),
    "month": (1, 0, 0),
    "y": (12, 0, 0),
    "yr": (12, 0, 0),
    "year": (12, 0, 0),
    "decade": (120, 0, 0),
    "century": (1200, 0, 0),
}


def parse_interval(text: str) -> tuple[int, int, int]:
    """(months, days, microseconds) of PostgreSQL's verbose and clock spellings; not ISO 8601's P…T."""
    lowered = text.strip().lower()
    ago = lowered.endswith(" ago")
    if ago:
        lowered = lowered[:-4].rstrip()
    months, days, micros = 0, 0, 0
    at = 1 if lowered.startswith("@") else 0
    found = False
    while at < len(lowered):
        if lowered[at].isspace():
            at += 1
            continue
        clock = _INTERVAL_TIME.match(lowered, at)
        if clock is not None:
            amount = (int(clock[2]) * 3600 + int(clock[3]) * 60 + int(clock[4] or 0)) * SECOND_US + _fraction_us(clock[5])
            micros += -amount if clock[1] == "-" else amount
            at, found = clock.end(), True
            continue
        part = _INTERVAL_PART.match(lowered, at)
        bare = re.compile(r"[+-]?\d+(?:\.\d+)?\s*$").match(lowered, at) if part is None else None
        if part is None and bare is None:
            raise _bad("interval", text)
        number, unit = (part[1], part[2]) if part is not None else (lowered[at:], "s")
        scale = _UNITS.get(unit) or _UNITS.get(unit.removesuffix("s"))
        if scale is None:
            raise _bad("interval", text)
        months, days, micros = _add_amount((months, days, micros), float(number), scale)
        at, found = (part or bare).end(), True  # type: ignore[union-attr]
    if not found:
        raise _bad("interval", text)
    return (-months, -days, -micros) if ago else (months, days, micros)


def _add_amount(total: tuple[int, int, int], amount: float, scale: tuple[int, int, int]) -> tuple[int, int, int]:
    """Add `amount` units; the fraction of a month spills into days, that of a day into time, as PostgreSQL does it."""
    months, days, micros = total
    if scale[0]:
        whole = int(amount * scale[0])
        spill = (amount * scale[0] - whole) * 30
        return months + whole, days + int(spill), micros + round((spill - int(spill)) * DAY_US)
    if scale[1]:
        whole = int(amount * scale[1])
        return months, days + whole, micros + round((amount * scale[1] - whole) * DAY_US)
    return months, days, micros + round(amount * scale[2])


def format_interval(value: tuple[int, int, int]) -> str:
    months, days, micros = value
    years, months = int(months / 12), months - int(months / 12) * 12
    parts = []
    negative = False
    for amount, name in ((years, "year"), (months, "mon"), (days, "day")):
        if amount:
            sign = "+" if negative and amount > 0 else ""
            parts.append(f"{sign}{amount} {name}{'' if amount == 1 else 's'}")
            negative = amount < 0
    if micros or not parts:
        sign = "-" if micros < 0 else "+" if negative else ""
        parts.append(sign + format_time(abs(micros)))
    return " ".join(parts)


def add_interval(stamp: int, interval: tuple[int, int, int], sign: int = 1) -> int:
    """timestamp + interval: months keep the day of month where they can, then days, then time."""
    if stamp in (STAMP_INFINITY, STAMP_MINUS_INFINITY):
        return stamp
    months, days, micros = interval
    if months:
        day, rest = divmod(stamp, DAY_US)
        year, month, day_of_month = civil_from_days(day)
        total = year * 12 + month - 1 + sign * months
        year, month = total // 12, total % 12 + 1
        stamp = days_from_civil(year, month, min(day_of_month, month_length(year, month))) * DAY_US + rest
    result = stamp + sign * (days * DAY_US + micros)
    if not _MIN_STAMP <= result < _END_STAMP:
        raise SqlError("22008", "timestamp out of range")
    return result
