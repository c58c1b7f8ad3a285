"""Measures how fast the product answers questions, beside DuckDB and ClickHouse with the same
clicks. `cargo xtask bench answers` runs it; figures go to standard output.

    measure.py --binary COUNTERSIGN --rows N --folder FOLDER

FOLDER keeps the data and the peers' tables for the next run; the product's data is made anew.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics

import data
import peers
import product
import questions
from figures import digest, figure, percentile, say


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--folder", required=True)
    return parser.parse_args()


def make_data(folder, rows):
    data.folder_of(folder, rows)
    say(f"the generator's peak memory: {data.peak_memory_mb():.0f} MB")


def main():
    args = arguments()
    os.makedirs(args.folder, exist_ok=True)
    say(f"{args.rows} clicks of one hour")
    # In a process of its own, whose memory is free again when it ends.
    maker = multiprocessing.Process(target=make_data, args=(args.folder, args.rows))
    maker.start()
    maker.join()
    if maker.exitcode != 0:
        raise SystemExit("the data could not be made")
    folder = data.folder_of(args.folder, args.rows)
    asked = ask_product(args, folder)
    # The peers only after the product has ended: each has the machine to itself.
    compare(asked, peers.opened(folder))


def ask_product(args, folder):
    """Imports and asks; gives the bodies and times of each question."""
    state = os.path.join(args.folder, "up")
    shutil.rmtree(state, ignore_errors=True)
    files = [data.csv_of(folder, part) for part in range(data.PARTS)]
    asked = {}
    with product.Server(args.binary, state) as server:
        seconds = server.bring_in(files)
        say(f"imported in {seconds:.0f} s")
        server.archive()
        say(f"quiet after another {server.await_quiet():.0f} s")
        connection = product.Connection(server.api)
        for question in questions.ALL:
            asked[question.name] = product.ask(connection, question)
            say(f"{question.name}: {statistics.median(asked[question.name][1]):.2f} ms")
        resident, disk = server.resident_mb(), server.disk_bytes()
    rows = args.rows
    shares = ", ".join(f"{size / rows:.0f} in `{top}`" for top, size in sorted(disk.items()))
    what = f"import of {rows} clicks as CSV, {data.PARTS} logs at once, until all are counted"
    figure("import", what, rows / seconds, "events/s")
    what = "on disk per event, after all was archived"
    note = f"answers: bytes on disk per event: {shares}"
    figure("bytes-per-event", what, sum(disk.values()) / rows, "bytes", note=note)
    figure("memory", "`up` after import and questions: resident memory", resident, "MB")
    shutil.rmtree(state, ignore_errors=True)
    return asked


def compare(asked, systems):
    for question in questions.ALL:
        bodies, times = asked[question.name]
        expected = {minutes: peers.exact(systems[0], question, minutes) for minutes in bodies}
        for minutes, body in bodies.items():
            check(question, minutes, body, expected[minutes])
        beside = [(peer, *peers.ask(peer, question, expected)) for peer in systems]
        tell(question, times, expected, beside)


def check(question, minutes, body, expected):
    """An answer that differs is a failure, however fast it was."""
    answer = question.read(body)
    if not question.exactly:
        if answer != expected:
            raise SystemExit(f"{question.name} {minutes}: {answer}, the peers say {expected}")
        return
    off = abs(answer / max(expected, 1) - 1)
    if body["exact"] and answer != expected:
        raise SystemExit(f"{question.name} {minutes}: exactly {answer}, not {expected}")
    # A right estimate lies beyond 3 % in five of a hundred deployments (each hashes visitors with
    # a key of its own), beyond three standard errors in three of a thousand.
    if off > peers.ESTIMATE_OFF_MAX:
        say(
            f"{question.name} {minutes}: {answer} is {off:.1%} off, standard error {body['std_error']}"
        )
    if off > max(peers.ESTIMATE_OFF_MAX, 3 * body["std_error"]):
        raise SystemExit(f"{question.name} {minutes}: {answer} is {off:.1%} from {expected}")


def tell(question, times, expected, beside):
    name, median = question.name, statistics.median(times)
    medians = {peer.name: statistics.median(spent) for peer, spent, _ in beside}
    faster = min(medians, key=medians.get)
    # The same for the same rows, whoever answers.
    checked = {"hash": digest(sorted(expected.items()))}
    what = f"{question.what}: p50 over HTTP"
    figure(name, what, median, "ms", peer=f"answers/{name}-{faster}", **checked)
    figure(f"{name}-p99", f"its p99 of {len(times)}", percentile(times, 99), "ms")
    figure(
        f"{name}-times", "so many times as fast as the faster peer", medians[faster] / median, "×"
    )
    for peer, spent, counting in beside:
        how = "" if counting.startswith("count(") and not question.exactly else f", `{counting}`"
        what = f"peer: {peer.title}, p50 of {len(spent)}, in process{how}"
        figure(f"{name}-{peer.name}", what, medians[peer.name], "ms")


if __name__ == "__main__":
    main()
