#!/usr/bin/env python3
"""Writes cases.txt: where local days, weeks, months, years and hours begin, in every zone of the
IANA database, by Python's zoneinfo. The test beside it holds `Steps` to that.

    pip install tzdata && PYTHONTZPATH= python3 cases.py > cases.txt

Each line: zone, year, then for day, week, month, year and hour how many steps the year (in UTC)
has, and the FNV-1a hash (64 bits) of the minutes since 1970 at which they begin, 4 bytes each,
little endian. The first step begins with the year, whether a local one does or not.
"""
import datetime
import sys
import zoneinfo
from importlib.metadata import version

UTC = datetime.timezone.utc
YEARS = [1971, 2011, 2026]


def offset(zone, second):
    at = datetime.datetime.fromtimestamp(second, UTC).astimezone(zone)
    return int(at.utcoffset().total_seconds())


def pieces(zone, start, end):
    """The spans of one offset: (start, end, offset)."""
    found = []
    begin, last = start, offset(zone, start)
    for hour in range(start, end, 3600):
        low, high = hour, min(hour + 3600, end)
        if offset(zone, high) == last:
            continue
        while high - low > 1:  # the second at which it changes
            middle = (low + high) // 2
            low, high = (middle, high) if offset(zone, middle) == last else (low, middle)
        if high < end:
            found.append((begin, high, last))
            begin, last = high, offset(zone, high)
    found.append((begin, end, last))
    return found


def minute(second):
    return -(-second // 60)


def hours(spans):
    for begin, end, off in spans:
        yield begin
        first = begin + (-(begin + off)) % 3600
        yield from range(first, end, 3600)


def days(spans):
    """The first moment of each local date: dates never go back to one that has begun."""
    seen = None
    for begin, end, off in spans:
        at = begin
        while at < end:
            date = (at + off) // 86400
            if seen is None or date > seen:
                if seen is not None:
                    yield at, date
                seen = date
            at += 86400 - (at + off) % 86400


def fnv(minutes):
    value = 0xCBF29CE484222325
    for one in minutes:
        for byte in one.to_bytes(4, "little"):
            value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{len(minutes)}:{value:016x}"


def line(name, year):
    zone = zoneinfo.ZoneInfo(name)
    start, end = (int(datetime.datetime(y, 1, 1, tzinfo=UTC).timestamp()) for y in (year, year + 1))
    spans = pieces(zone, start, end)
    dates = [(at, datetime.date(1970, 1, 1) + datetime.timedelta(date)) for at, date in days(spans)]
    # What begins is all that lies between the last date and this one: a zone may leave a date out.
    whole = {"day": [], "week": [], "month": [], "year": []}
    before = datetime.date(1970, 1, 1) + datetime.timedelta((start + spans[0][2]) // 86400)
    for at, date in dates:
        whole["day"].append(at)
        if (date.toordinal() - 1) // 7 != (before.toordinal() - 1) // 7:
            whole["week"].append(at)
        if (date.year, date.month) != (before.year, before.month):
            whole["month"].append(at)
        if date.year != before.year:
            whole["year"].append(at)
        before = date
    whole["hour"] = list(hours(spans))
    texts = []
    for starts in whole.values():
        minutes = sorted({minute(start)} | {minute(at) for at in starts if minute(at) < end // 60})
        texts.append(fnv(minutes))
    return f"{name} {year} {' '.join(texts)}"


print(f"# tzdata {version('tzdata')}")
for name in sorted(zoneinfo.available_timezones()):
    for year in YEARS:
        print(line(name, year))
    print(name, file=sys.stderr)
