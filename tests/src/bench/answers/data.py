"""One hour of clicks, the same on every machine: as CSV for `countersign import`, and as Parquet
for the peers.

Ads are chosen by Zipf 1.1, publishers by Zipf 1.0, countries by Zipf 1.2, users evenly enough that
most come once and some come often. Codes are numbers (`clicks.parquet`); the CSV has their names.
"""

import datetime
import hashlib
import json
import os
import resource
import shutil

import duckdb
import numpy

ADS = 2_000_000
PUBLISHERS = 20_000
PLACEMENTS_OF_A_PUBLISHER = 4
NETWORKS = 4_000_000
USERS = 1_000_000_000
WITHOUT_VISITOR = 0.12
# So many clicks are by whoever clicked just before.
AGAIN = 0.05
MINUTES = 60
# In the past, since rows of the future wait; a fixed one, so that the files are the same.
HOUR = int(datetime.datetime(2026, 1, 15, 12, tzinfo=datetime.timezone.utc).timestamp())
# Files of CSV, imported at once: an import sends one chunk of its log at a time, and waits until it
# is durable; several keep the collector busy.
PARTS = 4

DEVICES = {"phone": 0.55, "desktop": 0.35, "tablet": 0.07, "tv": 0.02, "unknown": 0.01}
# 200 codes of ISO 3166-1, the most frequent country first.
COUNTRIES = """
US IN BR ID DE GB FR JP MX RU TR PH VN IT ES CA KR PL TH AR CO EG NG PK BD ZA AU NL UA MY SA RO PE
CL IR MA DZ KE IQ VE SE BE CZ PT GR HU AT CH IL AE SG TW HK DK FI NO IE NZ SK BG HR RS LT SI LV EE
KZ UZ AZ GE AM BY MD KG TJ TM MN LK NP MM KH LA BN TL FJ PG SB VU WS TO KI TV NR PW FM MH CN KP AF
SY LB JO PS KW QA BH OM YE LY TN SD SS ET ER DJ SO UG RW BI TZ MZ MW ZM ZW BW NA SZ LS MG MU SC KM
CV ST GQ GA CG CD AO CM CF TD NE ML BF SN GM GW GN SL LR CI GH TG BJ MR EH RE YT SH CU JM HT DO PR
BS BB TT GD LC VC AG DM KN GT BZ SV HN NI CR PA EC BO PY UY GY SR GF FK IS FO GL LU LI MC SM VA MT AL BA
""".split()


def ad_of(rank):
    """The number of the ad in a place of the list by frequency, 0 the most frequent. Spread over
    all numbers, so that ads that are asked for often do not lie side by side in a sorted table."""
    return (rank * 1_234_577 + 777_777) % ADS


def ad_name(number):
    """Names sort as numbers do, which settles ties in top lists."""
    return f"ad{number:07}"


def folder_of(parent, rows):
    """The finished data of so many rows, made first where they are missing or of an older form."""
    with open(__file__, "rb") as own:
        # Another text of this file makes other data.
        digest = hashlib.sha256(own.read()).hexdigest()
    form = f"{digest} {numpy.__version__} {duckdb.__version__}"
    folder = os.path.join(parent, f"clicks-{rows}")
    stamp = os.path.join(folder, "form.json")
    if os.path.exists(stamp):
        with open(stamp) as file:
            if json.load(file) == form:
                return folder
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    write(folder, columns(rows))
    # Last, so that a folder that has it is complete.
    with open(stamp, "w") as file:
        json.dump(form, file)
    return folder


def zipf(random, count, exponent, rows):
    """`rows` numbers below `count`, 0 the most frequent."""
    weights = 1 / numpy.arange(1, count + 1) ** exponent
    bounds = numpy.cumsum(weights)
    return numpy.searchsorted(bounds, random.random(rows) * bounds[-1]).clip(0, count - 1)


def mixed(numbers):
    """A bijection that looks like chance."""
    numbers = numbers.astype(numpy.uint64)
    for _ in range(2):
        numbers ^= numbers >> numpy.uint64(32)
        numbers *= numpy.uint64(0xD6E8FEB86659FD93)
    return numbers ^ (numbers >> numpy.uint64(32))


def columns(rows):
    """The clicks in the order of their time."""
    random = numpy.random.Generator(numpy.random.PCG64(14))
    made = {}
    # Sorted: a log is written as events come.
    second = numpy.sort(random.integers(0, MINUTES * 60, rows).astype(numpy.uint16))
    made["second"] = second
    made["minute"] = (second // 60).astype(numpy.uint8)
    made["ad"] = ad_of(zipf(random, ADS, 1.1, rows)).astype(numpy.uint32)
    made["publisher"] = zipf(random, PUBLISHERS, 1.0, rows).astype(numpy.uint16)
    place = random.integers(0, PLACEMENTS_OF_A_PUBLISHER, rows, dtype=numpy.uint32)
    made["placement"] = made["publisher"] * numpy.uint32(PLACEMENTS_OF_A_PUBLISHER) + place
    made["country"] = zipf(random, len(COUNTRIES), 1.2, rows).astype(numpy.uint8)
    shares = numpy.cumsum(list(DEVICES.values()))
    device = numpy.searchsorted(shares, random.random(rows) * shares[-1])
    made["device"] = device.clip(0, len(DEVICES) - 1).astype(numpy.uint8)
    user = (USERS * random.random(rows) ** 1.5).astype(numpy.uint64)
    again = random.random(rows) < AGAIN
    user[1:][again[1:]] = user[:-1][again[1:]]
    # A user stays in a network, and networks differ in how many users they have.
    weights = numpy.cumsum(1 / numpy.arange(1, NETWORKS + 1) ** 0.8)
    chance = (mixed(user ^ numpy.uint64(0x5555)) >> numpy.uint64(11)) / 2.0**53
    network = numpy.searchsorted(weights, chance * weights[-1])
    made["network"] = network.clip(0, NETWORKS - 1).astype(numpy.uint32)
    made["visitor"] = mixed(user + numpy.uint64(12_345))
    made["visitor"][random.random(rows) < WITHOUT_VISITOR] = 0
    return made


def write(folder, made):
    connection = duckdb.connect()
    connection.execute("SET memory_limit = '4GB'")
    connection.execute("SET temp_directory = '" + os.path.join(folder, "sorting") + "'")
    connection.execute("SET enable_progress_bar = false")
    countries = "['" + "', '".join(COUNTRIES) + "']"
    devices = "['" + "', '".join(DEVICES) + "']"
    # Some /24 between 16.0.0.0 and 77.0.0.0; the last number is not kept.
    address = "concat_ws('.', 16 + (network >> 16), (network >> 8) & 255, network & 255, 1)"
    named = f"""
        SELECT format('ad{{:07d}}', ad) AS ad_id, {HOUR} + second AS timestamp,
          format('p{{:05d}}', publisher) AS publisher,
          format('p{{:05d}}-{{}}', publisher, placement % {PLACEMENTS_OF_A_PUBLISHER}) AS placement,
          {countries}[country + 1] AS country, {devices}[device + 1] AS device,
          CASE WHEN visitor > 0 THEN lower(hex(visitor)) END AS user_id, {address} AS ip
        FROM part"""
    for part in range(PARTS):
        # Every fourth click, so that all parts come to the same minute at about the same time.
        rows = {name: values[part::PARTS].copy() for name, values in made.items()}
        connection.register("part", rows)
        path = csv_of(folder, part)
        connection.execute(f"COPY ({named}) TO '{path}' (HEADER)")
        connection.unregister("part")
    del rows
    connection.register("part", made)
    connection.execute(
        f"COPY (SELECT * EXCLUDE second FROM part) TO '{parquet_of(folder)}'"
        " (FORMAT parquet, COMPRESSION zstd)"
    )
    connection.close()


def csv_of(folder, part):
    return os.path.join(folder, f"clicks-{part}.csv")


def parquet_of(folder):
    return os.path.join(folder, "clicks.parquet")


def peak_memory_mb():
    """The largest resident set of this process so far, which Linux gives in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024 / 1e6
