"""Writes the golden sketches: what Apache's own library makes of known visitors.

    pip install datasketches==5.2.0
    python3 golden.py            # writes cpc_*.bin, hll_*.bin and golden.txt beside itself
    python3 golden.py FOLDER     # reads the sketches in FOLDER, and says what it estimates

The visitors are the first numbers of SplitMix64 from the seed 0, integers of 64 bits without a
sign. A CPC sketch of this package takes them as they are; an HLL sketch takes integers with a sign,
of the same 64 bits. Each hashes what it does not take as a floating-point number, without a word.

    cpc_N.bin         N visitors in a CPC sketch, lg_k 11, then in a union of nothing but this
    cpc_N_single.bin  the sketch itself, which estimates from the order of its visitors
    hll_N.bin         N visitors in ascending order in an HLL sketch, lg_k 12, four bits a register
    golden.txt        file, visitors, and what the library estimates: the number, and the bounds of
                      two standard errors below and above
"""

import pathlib
import sys

import datasketches

COUNTS = [0, 1, 100, 1_000, 10_000, 100_000]
BITS_64 = (1 << 64) - 1


def visitors(count):
    state = 0
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & BITS_64
        mixed = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & BITS_64
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & BITS_64
        yield mixed ^ mixed >> 31


def cpc(count):
    sketch = datasketches.cpc_sketch(11)
    for visitor in visitors(count):
        sketch.update(visitor)
    return sketch


def union(sketch):
    union = datasketches.cpc_union(11)
    union.update(sketch)
    return union.get_result()


def hll(count):
    sketch = datasketches.hll_sketch(12, datasketches.tgt_hll_type.HLL_4)
    for visitor in sorted(visitors(count)):
        sketch.update(visitor - (1 << 64) if visitor >> 63 else visitor)
    return sketch


def told(sketch, **two):
    bounds = (sketch.get_lower_bound(2), sketch.get_upper_bound(2))
    return " ".join(repr(number) for number in (sketch.get_estimate(), *bounds))


def write(folder):
    lines = []
    for count in COUNTS:
        single = cpc(count)
        made = {f"cpc_{count}": union(single), f"hll_{count}": hll(count)}
        if count in (100, 1_000, 10_000):
            made[f"cpc_{count}_single"] = single
        for name, sketch in made.items():
            is_cpc = name.startswith("cpc")
            data = sketch.serialize() if is_cpc else sketch.serialize_compact()
            (folder / f"{name}.bin").write_bytes(data)
            lines.append(f"{name} {count} {told(sketch)}\n")
    (folder / "golden.txt").write_text("".join(lines))


def read(folder):
    for path in sorted(folder.glob("*.bin")):
        kind = datasketches.cpc_sketch if path.name.startswith("cpc") else datasketches.hll_sketch
        print(path.stem, told(kind.deserialize(path.read_bytes())))


if len(sys.argv) > 1:
    read(pathlib.Path(sys.argv[1]))
else:
    write(pathlib.Path(__file__).parent)
