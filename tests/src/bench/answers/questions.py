"""The questions, each as a path of the API and as SQL of the peers, with the answers in one form.

Of the questions of issue 14 these are not here, since the data has one hour: 30 days of an
advertiser or publisher, uniques over 90 ragged days. One user's clicks is no question of the API:
it keeps a fingerprint that nobody can name. A campaign's series is asked as that of an ad, for an
imported log names no campaigns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import data

# Which places of the list by frequency are asked for; codes of countries are places too, 0 the
# most frequent.
HOTTEST = data.ad_of(0)
HUNDREDTH = data.ad_of(99)
NOT_US = "country!=US"
NOT_US_SQL = "country <> 0"


@dataclass(frozen=True)
class Question:
    name: str
    what: str
    # How many minutes are asked about; less than an hour is another part of it each time.
    minutes: int
    path: str
    read: Callable
    sql: str
    # What DuckDB and ClickHouse call it, in place of COUNT in `sql`.
    duckdb: str = "count(*)"
    clickhouse: str = "count()"
    # An estimate: what counts exactly, in both, in place of COUNT.
    exactly: str = ""

    def ranges(self, count):
        """So many ranges of minutes, as different as they can be."""
        places = data.MINUTES - self.minutes + 1
        # 7 and the number of places have no common divisor: all places come before one comes again.
        return [(at * 7 % places, at * 7 % places + self.minutes) for at in range(count)]

    def url(self, minutes):
        first, end = (data.HOUR + 60 * minute for minute in minutes)
        separator = "&" if "?" in self.path else "?"
        if "popular_ads" in self.path:
            return f"{self.path}{separator}window={self.minutes}&at={end}"
        return f"{self.path}{separator}from={first}&to={end}"

    def statement(self, minutes, count):
        first, end = minutes
        time = f"minute >= {first} AND minute < {end}"
        return self.sql.replace("TIME", time).replace("COUNT", count)


def counted(body):
    return body["count"]


def uniques(body):
    return body["uniques"]


def top(body):
    return [[row["id"], row["count"]] for row in body["top"]]


def popular(body):
    return [list(row) for row in zip(body["ad_ids"], body["counts"])]


def series(body):
    """Minutes without a click are left out, as SQL leaves them out."""
    counts = [point["clicks"] for point in body["points"]]
    return [[minute, count] for minute, count in enumerate(counts) if count]


def by_country(body):
    rows = [[group["group"]["country"], group["clicks"]] for group in body["groups"]]
    return sorted(rows)


def of_rows(question, rows):
    """What a peer answered, as the functions above give it."""
    if question.read in (counted, uniques):
        return int(rows[0][0])
    if question.read in (top, popular):
        return [[data.ad_name(int(ad)), int(count)] for ad, count in rows]
    if question.read is by_country:
        return sorted([data.COUNTRIES[int(code)], int(count)] for code, count in rows)
    return [[int(minute), int(count)] for minute, count in rows]


def of_ad(ad, question):
    return f"/v1/ads/{data.ad_name(ad)}/{question}"


def count_of(ad, condition="true"):
    return f"SELECT COUNT FROM clicks WHERE ad = {ad} AND TIME AND {condition}"


def top_of(condition):
    # Ads with as many clicks come in the order of their names.
    return (
        f"SELECT ad, COUNT AS clicks FROM clicks WHERE TIME AND {condition} "
        "GROUP BY ad ORDER BY clicks DESC, ad LIMIT 100"
    )


UNIQUES = {
    "sql": count_of(HOTTEST, "visitor <> 0"),
    "read": uniques,
    "duckdb": "approx_count_distinct(visitor)",
    "clickhouse": "uniq(visitor)",
    "exactly": "count(DISTINCT visitor)",
}

ALL = [
    Question(
        "hottest-17min",
        "clicks of the hottest ad, not US, 17 minutes",
        17,
        of_ad(HOTTEST, f"aggregated_count?where={NOT_US}"),
        counted,
        count_of(HOTTEST, NOT_US_SQL),
    ),
    Question(
        "100th-17min",
        "clicks of the 100th ad, not US, 17 minutes",
        17,
        of_ad(HUNDREDTH, f"aggregated_count?where={NOT_US}"),
        counted,
        count_of(HUNDREDTH, NOT_US_SQL),
    ),
    Question(
        "top-10min",
        "the 100 ads with most clicks, not US, 10 minutes",
        10,
        f"/v1/top?of=ads&count=100&where={NOT_US}",
        top,
        top_of(NOT_US_SQL),
    ),
    Question(
        "top-60min",
        "the 100 ads with most clicks, all, 60 minutes",
        60,
        "/v1/ads/popular_ads?count=100",
        popular,
        top_of("true"),
    ),
    Question(
        "uniques-17min",
        "visitors of the hottest ad, 17 minutes",
        17,
        of_ad(HOTTEST, "uniques"),
        **UNIQUES,
    ),
    Question(
        "uniques-60min",
        "visitors of the hottest ad, 60 minutes",
        60,
        of_ad(HOTTEST, "uniques"),
        **UNIQUES,
    ),
    Question(
        "series-60min",
        "clicks of the hottest ad by the minute, 60 minutes",
        60,
        of_ad(HOTTEST, "series?step=minute&metrics=clicks"),
        series,
        f"SELECT minute, COUNT FROM clicks WHERE ad = {HOTTEST} AND TIME GROUP BY minute ORDER BY minute",
    ),
    Question(
        "breakdown-60min",
        "clicks of the 100th ad by country, 60 minutes",
        60,
        of_ad(HUNDREDTH, f"breakdown?by=country&metrics=clicks&count={len(data.COUNTRIES)}"),
        by_country,
        f"SELECT country, COUNT FROM clicks WHERE ad = {HUNDREDTH} AND TIME GROUP BY country",
    ),
    Question(
        "count-17min",
        "clicks of the hottest ad, all, 17 minutes",
        17,
        of_ad(HOTTEST, "aggregated_count"),
        counted,
        count_of(HOTTEST),
    ),
]
