"""A small fuzzer of bytes: what is good is damaged in ways that files are damaged, and in ways that attackers choose.

Everything follows from a seed, so that a find can be repeated. A find is kept as a file in ``corpus/``, which every run
tries first.
"""

from __future__ import annotations

import base64
import json
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"

#: Pieces that mean something to the readers tried here.
_PIECES = (
    b"\0", b"\xff", b"\n", b"\\", b'"', b"{", b"}", b"[", b"(", b".", b"PK\x05\x06", b"PK\x01\x02", b"PK\x03\x04",
    b"\x93NUMPY", b"descr", b"shape", b"__metadata__", b"format", b"dtype", b"data_offsets", b"-1", b"1e999", b"NaN",
    b"null", b"true", b"cos\nsystem\n", b"c__builtin__\neval\n", b"\x80\x04", b"\x94", b"h\x00", b"R", b"b", b"\x81",
    b"18446744073709551615", b"9223372036854775808", b"|O", b"<f8", b"U999999999", b"../../", b"\xed\xb3\xbf",
)  # fmt: skip
_NUMBERS = (
    0,
    1,
    -1,
    127,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


def mutated(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to four changes of ``content``; ``others`` are spliced in now and then."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(data) + 1)
        how = rng.randrange(10)
        if how <= 2 and data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == 3:
            del data[place:]
        elif how == 4:
            del data[place : place + rng.choice((1, 2, 8, 100))]
        elif how == 5:
            data[place:place] = rng.choice(_PIECES) * rng.choice((1, 1, 1, 2, 1000))
        elif how == 6:
            number = rng.choice(_NUMBERS) % 2**64
            width = rng.choice((1, 2, 4, 8))
            data[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
        elif how == 7:
            start = rng.randrange(len(data) + 1)
            piece = data[start : start + rng.choice((1, 8, 64, 512))]
            data[place:place] = piece
        elif how == 8:
            other = rng.choice(others)
            data[place:] = other[rng.randrange(len(other) + 1) :]
        else:
            digits = [k for k, byte in enumerate(data) if 48 <= byte <= 57]
            if digits:
                data[rng.choice(digits)] = rng.choice(b"0123456789-.")
    return bytes(data)


def changed_json(value: object, rng: random.Random) -> object:
    """A JSON value with something in it taken out, doubled, or of another kind."""
    odd = (
        None,
        True,
        -1,
        0,
        2**70,
        1e300,
        float("nan"),
        "",
        "x",
        [],
        {},
        [[]],
        "\udcff",
        0.5,
        "\0",
    )
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.15:
            return rest
        if rng.random() < 0.1:
            return rest | {rng.choice(("extra", "", "crc32", "recipe")): value[key]}
        return value | {key: changed_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        if rng.random() < 0.3:
            return value[:place] + value[place + 1 :] * rng.choice((1, 2))
        return [*value[:place], changed_json(value[place], rng), *value[place + 1 :]]
    return rng.choice(odd)


def corpus(target: str) -> list[bytes]:
    """What is tried first."""
    return [path.read_bytes() for path in sorted(CORPUS.glob(f"{target}-*"))]


def inputs(target: str, good: dict[str, bytes], seed: int) -> Iterator[bytes]:
    """The corpus of a target, what is good, and then endlessly damaged pieces of both."""
    first = [*corpus(target), *good.values()]
    yield from first
    rng = random.Random(f"{target} {seed}")
    while True:
        content = rng.choice(first)
        as_json = content[:1] in (b"{", b"[") and rng.random() < 0.5
        if as_json:
            try:
                value = changed_json(json.loads(content), rng)
                yield json.dumps(value).encode("utf-8", "surrogatepass")
                continue
            except (ValueError, RecursionError):
                pass
        yield mutated(content, first, rng)


def seconds() -> float:
    """How long each target is tried: a few seconds, or ``MILD_EXT_FUZZ_SECONDS``."""
    return float(os.environ.get("MILD_EXT_FUZZ_SECONDS", "3"))


def first_seed() -> int:
    """Where the targets begin: always the same, or ``MILD_EXT_FUZZ_SEED``."""
    return int(os.environ.get("MILD_EXT_FUZZ_SEED", "0"))


def search(
    target: str, good: dict[str, bytes], attempt: Callable[[bytes], None], *, least: int = 50
) -> int:
    """Try inputs until the time is over; an input that ``attempt`` fails on is kept in the corpus.

    Args:
        target: its name, with which its files in the corpus begin.
        good: what is damaged, by name.
        attempt: tries one input; raises where it finds something.
        least: how many are tried however long it takes, beside the corpus, which is tried in any case.

    Returns:
        How many were tried.
    """
    end, tried = time.monotonic() + seconds(), 0
    least += len(corpus(target))
    for content in inputs(target, good, first_seed()):
        if tried >= least and time.monotonic() > end:
            break
        tried += 1
        try:
            attempt(content)
        except BaseException:
            CORPUS.mkdir(exist_ok=True)
            name = f"{target}-{zlib.crc32(content):08x}"
            (CORPUS / name).write_bytes(content)
            print(f"kept as {CORPUS / name}, which is", base64.b64encode(content[:20_000]).decode())
            raise
    print(f"{target}: {tried} tried")
    return tried
