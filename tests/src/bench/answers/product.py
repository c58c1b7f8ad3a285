"""The product: `countersign up`, what `countersign import` brings in, and questions over one kept
connection."""

import http
import itertools
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

KEY = "a-key-for-benchmarks-0123456789"
CACHE_BYTES = 1 << 30
# Asked before anything is measured, so that what is read lies in memory.
WARM_UP = 3
# A question is asked so often at least, and on for so long, but not more often than that.
# Often enough that every range of an hour is asked about.
ASKED_MIN, ASKED_MAX, ASKED_SECONDS = 60, 500, 5
# A turn of the archive that is under way ends within so many seconds.
ARCHIVE_TRIES = 300
# Quiet: less than this part of one core, over so many seconds, so many times one after the other.
# Together longer than from one checkpoint to the next (`aggregator.checkpoint_ms`).
QUIET_PART, QUIET_SECONDS, QUIET_TIMES = 0.05, 5, 3
QUIET_WITHIN_SECONDS = 1_200


class Server:
    """A running `up`; ended with the block."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        # Settings of whoever runs this must not change what is measured.
        names = (name for name in os.environ if not name.startswith("COUNTERSIGN_"))
        self.environment = {name: os.environ[name] for name in names}
        self.environment |= {"COUNTERSIGN_ADMIN_KEY": KEY, "RUST_LOG": "warn"}
        # The peers keep in memory what they like.
        self.environment["COUNTERSIGN_AGGREGATOR__FACTS_CACHE_BYTES"] = str(CACHE_BYTES)

    def __enter__(self):
        listen = ["--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [self.binary, "up", "--data", self.folder, *listen],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self.environment,
            text=True,
        )
        for name in ("edge", "api"):
            line = self.process.stdout.readline().strip()
            start = f"{name} listening on "
            if not line.startswith(start):
                self.process.kill()
                raise SystemExit(f"up said {line!r}")
            self.api = line.removeprefix(start)
        # What it says later is read too, so that a full pipe cannot hold it up.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            # With so much in memory an orderly end may take a while.
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def bring_in(self, files):
        """Imports the files, all at once; returns how many seconds it took until all rows were
        counted."""
        start = time.perf_counter()
        running = [self.importing(file) for file in files]
        # `import` ends when all rows are counted, with 0 when nothing was left out.
        try:
            for process in running:
                said = process.communicate()[0]
                if process.returncode != 0:
                    raise SystemExit(f"an import ended with {process.returncode}:\n{said}")
        finally:
            for process in running:
                process.kill()
        return time.perf_counter() - start

    def importing(self, file):
        command = [self.binary, "import", file, "--api", self.api, "--key", KEY]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            text=True,
        )

    def archive(self):
        """Archives now what would be archived while questions are asked."""
        headers = {"Authorization": f"Bearer {KEY}"}
        for partition in itertools.count():
            url = f"{self.api}/v1/archive/{partition}"
            for _ in range(ARCHIVE_TRIES):
                try:
                    request = urllib.request.Request(url, headers=headers, method="POST")
                    urllib.request.urlopen(request).close()
                    break
                except urllib.error.HTTPError as error:
                    if error.code == http.HTTPStatus.NOT_FOUND:
                        # The partition behind the last.
                        return
                    if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:
                        raise
                    time.sleep(1)
            else:
                raise SystemExit(f"partition {partition} was not archived")

    def await_quiet(self):
        """Waits until all facts are in segments and the process has nothing to do."""
        start, quiet = time.monotonic(), 0
        while self.loose_events() > 0:
            time.sleep(1)
            if time.monotonic() - start > QUIET_WITHIN_SECONDS:
                raise SystemExit(f"facts were loose after {QUIET_WITHIN_SECONDS} s")
        while quiet < QUIET_TIMES:
            before = self.cpu_seconds()
            time.sleep(QUIET_SECONDS)
            idle = self.cpu_seconds() - before < QUIET_PART * QUIET_SECONDS
            quiet = quiet + 1 if idle else 0
            if time.monotonic() - start > QUIET_WITHIN_SECONDS:
                raise SystemExit(f"up was not quiet within {QUIET_WITHIN_SECONDS} s")
        return time.monotonic() - start

    def loose_events(self):
        headers = {"Authorization": f"Bearer {KEY}"}
        request = urllib.request.Request(f"{self.api}/v1/segments", headers=headers)
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)["loose_events"]

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            # What is behind the program's name, which may have spaces in it.
            fields = file.read().rpartition(")")[2].split()
        user, system = int(fields[11]), int(fields[12])
        return (user + system) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            line = next(line for line in file if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1_024 / 1e6

    def disk_bytes(self):
        """What the data takes on disk, by its folder."""
        taken = {}
        for folder, _, names in os.walk(self.folder):
            top = os.path.relpath(folder, self.folder).split(os.sep)[0]
            for name in names:
                try:
                    size = os.stat(os.path.join(folder, name)).st_blocks * 512
                except FileNotFoundError:
                    # Collected meanwhile.
                    continue
                taken[top] = taken.get(top, 0) + size
        return taken


class Connection:
    """One kept connection. By hand, since Python's own client takes as long as an answer does."""

    def __init__(self, api):
        host, port = api.removeprefix("http://").rsplit(":", 1)
        self.host = f"{host}:{port}"
        self.socket = socket.create_connection((host, int(port)), timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, path):
        """The body, and how many milliseconds it took until all of it was here."""
        head = f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {KEY}\r\n\r\n"
        start = time.perf_counter()
        self.socket.sendall(head.encode())
        status, body = self.reply()
        spent = (time.perf_counter() - start) * 1e3
        if status != http.HTTPStatus.OK:
            raise SystemExit(f"{path} was answered with {status}: {body.decode()}")
        return body, spent

    def reply(self):
        received = b""
        while b"\r\n\r\n" not in received:
            received += self.received()
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        lengths = [line for line in lines if line.startswith("content-length:")]
        if not lengths:
            raise SystemExit(f"an answer without its length: {head.decode()}")
        length = int(lengths[0].split(":")[1])
        while len(body) < length:
            body += self.received()
        return int(lines[0].split()[1]), body

    def received(self):
        some = self.socket.recv(1 << 18)
        if not some:
            raise SystemExit("up closed the connection")
        return some


def ask(connection, question):
    """The answers by range, and the milliseconds of each question."""
    answers, times = {}, []
    for minutes in question.ranges(WARM_UP):
        connection.ask(question.url(minutes))
    start = time.monotonic()
    for minutes in question.ranges(ASKED_MAX):
        body, spent = connection.ask(question.url(minutes))
        times.append(spent)
        answers.setdefault(minutes, []).append(body)
        if len(times) >= ASKED_MIN and time.monotonic() - start > ASKED_SECONDS:
            break
    read = {
        minutes: {repr(question.read(json.loads(body))) for body in bodies}
        for minutes, bodies in answers.items()
    }
    for minutes, different in read.items():
        if len(different) > 1:
            raise SystemExit(f"{question.name} {minutes}: different answers: {different}")
    bodies = {minutes: json.loads(bodies[0]) for minutes, bodies in answers.items()}
    return bodies, times
