"""Documents to measure with: 1 kB of JSON made of words, the same in every run."""

from __future__ import annotations

import random

WORDS = (  # noqa: SIM905 - a list of 20 literals is harder to read
    "boiler valve pump pressure setpoint room sensor gauge window kitchen cellar flow return "
    "alarm service technician north south morning evening filter"
).split()
BODY_BYTES = 1000
BLOB_BYTES = 1_000_000


def bodies(count: int) -> list[dict[str, object]]:
    """Return bodies of about 1000 bytes of JSON each."""
    chance = random.Random(2)
    return [_body(number, chance) for number in range(count)]


def blobs(count: int) -> list[bytes]:
    """Return blobs of 1 MB that nothing compresses."""
    chance = random.Random(3)
    return [chance.randbytes(BLOB_BYTES) for _ in range(count)]


def _body(number: int, chance: random.Random) -> dict[str, object]:
    text = " ".join(chance.choices(WORDS, k=BODY_BYTES // 7))
    return {"number": number, "level": chance.random(), "text": text[: BODY_BYTES - 60]}
