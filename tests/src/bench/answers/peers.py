"""DuckDB and ClickHouse (`chdb`) in this process: a native table of each, sorted by ad and minute,
asked in SQL. Their codes are small numbers, where the product has names."""

import os
import shutil
import time

import data
import duckdb
import questions
from chdb import session
from figures import say

TIMES = 15
WARM_UP = 3
# How far an estimate may lie from the exact number.
ESTIMATE_OFF_MAX = 0.03


class DuckDb:
    name, title = "duckdb", f"DuckDB {duckdb.__version__}"

    def __init__(self, folder):
        path = os.path.join(folder, f"duckdb-{duckdb.__version__}.db")
        if not os.path.exists(path):
            self.build(path, data.parquet_of(folder))
        self.connection = duckdb.connect(path, read_only=True)
        self.connection.execute("SET enable_progress_bar = false")

    @staticmethod
    def build(path, parquet):
        # Renamed when it is complete, so that one with the final name always is.
        aside = f"{path}.partial"
        for stale in (aside, f"{aside}.wal"):
            if os.path.exists(stale):
                os.remove(stale)
        connection = duckdb.connect(aside)
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET memory_limit = '8GB'")
        connection.execute(f"CREATE TABLE clicks AS SELECT * FROM '{parquet}' ORDER BY ad, minute")
        connection.close()
        os.rename(aside, path)

    def rows(self, sql):
        return self.connection.execute(sql).fetchall()

    def counting(self, question):
        return question.duckdb


class ClickHouse:
    name = "chdb"

    def __init__(self, folder):
        import chdb

        self.title = f"ClickHouse {chdb.query('SELECT version()', 'TabSeparatedRaw')}".strip()
        path = os.path.join(folder, f"chdb-{chdb.__version__}")
        done = os.path.join(path, "complete")
        is_built = os.path.exists(done)
        if not is_built:
            shutil.rmtree(path, ignore_errors=True)
        self.session = session.Session(path)
        if not is_built:
            self.build(data.parquet_of(folder))
            open(done, "w").close()

    def build(self, parquet):
        self.session.query(
            "CREATE TABLE clicks (minute UInt8, ad UInt32, publisher UInt16, placement UInt32,"
            " country UInt8, device UInt8, network UInt32, visitor UInt64)"
            " ENGINE = MergeTree ORDER BY (ad, minute)"
        )
        self.session.query(
            "INSERT INTO clicks SELECT minute, ad, publisher, placement, country, device, network,"
            f" visitor FROM file('{parquet}', Parquet)"
        )
        # One part, as after all merges.
        self.session.query("OPTIMIZE TABLE clicks FINAL")

    def rows(self, sql):
        text = self.session.query(sql, "TabSeparated").bytes().decode()
        return [line.split("\t") for line in text.splitlines()]

    def counting(self, question):
        return question.clickhouse


def opened(folder):
    peers = []
    for peer in (DuckDb, ClickHouse):
        start = time.perf_counter()
        peers.append(peer(folder))
        say(f"{peers[-1].title}: table there after {time.perf_counter() - start:.0f} s")
    return peers


def exact(peer, question, minutes):
    sql = question.statement(minutes, question.exactly or peer.counting(question))
    return questions.of_rows(question, peer.rows(sql))


def ask(peer, question, expected):
    """The milliseconds of each time, and what was counted by. `expected` has the exact answers by
    range. An estimate that is too far off is no answer: the exact one is timed then."""
    counting = peer.counting(question)
    ranges = question.ranges(TIMES)
    if question.exactly:
        estimates = {
            minutes: int(peer.rows(question.statement(minutes, counting))[0][0])
            for minutes in set(ranges)
        }
        off = max(abs(estimates[minutes] / expected[minutes] - 1) for minutes in estimates)
        if off > ESTIMATE_OFF_MAX:
            say(f"{peer.title}: {counting} is off by {off:.1%}, so it counts exactly")
            counting = question.exactly
    times = []
    for nth, minutes in enumerate(ranges[:WARM_UP] + ranges):
        sql = question.statement(minutes, counting)
        start = time.perf_counter()
        rows = peer.rows(sql)
        spent = (time.perf_counter() - start) * 1e3
        if nth >= WARM_UP:
            times.append(spent)
        answer = questions.of_rows(question, rows)
        is_estimate = question.exactly and counting != question.exactly
        if not is_estimate and answer != expected[minutes]:
            raise SystemExit(f"{question.name} {minutes}: the peers differ, {peer.title}: {answer}")
    return times, counting
