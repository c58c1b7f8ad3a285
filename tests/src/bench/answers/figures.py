"""Figures in the form that `cargo xtask bench` reads (xtask/src/bench.rs)."""

import hashlib
import json
import sys


def say(text):
    """To whoever watches; the figures alone go to standard output."""
    print(f"answers: {text}", file=sys.stderr, flush=True)


def figure(name, what, value, unit, **more):
    line = {"name": f"answers/{name}", "what": what, "value": value, "unit": unit, **more}
    print(json.dumps(line), flush=True)


def digest(answers):
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:16]


def percentile(values, percent):
    """The one below which so many percent of them are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]
