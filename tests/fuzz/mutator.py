"""Damage bytes, at random but the same way each time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

MAX_BYTES: Final = 16_384
"""Longer inputs are cut: most parsers cost the length, so few of them would be tried."""
KEPT: Final = 300
NOISE_BYTES: Final = 64
INTEGERS: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1,
                   2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
DIGITS: Final = (b"0", b"-1", b"00", b"1e400", b"4294967296", b"18446744073709551616", b"9" * 400)
COMMON: Final = (b"", b"\0", b"\n", b"\r\n", b" ", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"\x7f",
                 b"\xe2\x80\xae", b"%00", b"../", b"[" * 1100, b'{"a":' * 300)  # fmt: skip


class Mutator:
    """Make inputs of seeds."""

    def __init__(
        self,
        seeds: Sequence[bytes],
        tokens: Sequence[bytes],
        chance: random.Random,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        assert seeds, "a target needs a seed"
        self._seeds = list(seeds)
        self._tokens = (*COMMON, *tokens, *tokens)
        self._unused = list(seeds)
        self._kept: list[bytes] = []
        self._chance = chance
        self._max_bytes = max_bytes
        self._ways: tuple[Callable[[bytearray], None], ...] = (
            self._flip, self._flip, self._set_byte, self._cut_off, self._remove, self._repeat,
            self._insert_token, self._insert_token, self._overwrite, self._integer, self._digits,
            self._splice, self._swap,
        )  # fmt: skip

    def next(self) -> bytes:
        """Return an input: each seed once, then damaged ones; now and then the seed or noise."""
        if self._unused:
            return self._unused.pop(0)
        chance = self._chance
        what = chance.random()
        if what < 0.02:
            return chance.randbytes(chance.randrange(NOISE_BYTES))
        data = bytearray(self._some())
        if what > 0.03:
            for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
                chance.choice(self._ways)(data)
        return bytes(data[: self._max_bytes])

    def keep(self, data: bytes) -> None:
        """Take an input that was accepted among the seeds, in place of another one."""
        if len(data) > self._max_bytes // 4:
            return
        if len(self._kept) < KEPT:
            self._kept.append(data)
        else:
            self._kept[self._chance.randrange(KEPT)] = data

    def _some(self) -> bytes:
        # Seeds more often: what was accepted tends to be what nothing is left of.
        pool = self._kept if self._kept and self._chance.random() < 0.3 else self._seeds
        return self._chance.choice(pool)

    def _place(self, data: bytearray) -> int:
        """Return a place, more often near the beginning, where the headers are."""
        if self._chance.random() < 0.3:
            return self._chance.randrange(min(len(data), 16) + 1)
        return self._chance.randrange(len(data) + 1)

    def _range(self, data: bytearray) -> slice:
        start = self._place(data)
        return slice(start, start + self._chance.choice((1, 2, 4, 16, 64, 1024)))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[min(self._place(data), len(data) - 1)] ^= 1 << self._chance.randrange(8)

    def _set_byte(self, data: bytearray) -> None:
        if data:
            data[min(self._place(data), len(data) - 1)] = self._chance.randrange(256)

    def _cut_off(self, data: bytearray) -> None:
        del data[self._chance.randrange(len(data) + 1) :]

    def _remove(self, data: bytearray) -> None:
        del data[self._range(data)]

    def _repeat(self, data: bytearray) -> None:
        chunk = bytes(data[self._range(data)])
        at = self._place(data)
        data[at:at] = chunk * self._chance.choice((1, 2, 10, 200))

    def _insert_token(self, data: bytearray) -> None:
        at = self._place(data)
        data[at:at] = self._chance.choice(self._tokens)

    def _overwrite(self, data: bytearray) -> None:
        token = self._chance.choice(self._tokens)
        at = self._place(data)
        data[at : at + len(token)] = token

    def _integer(self, data: bytearray) -> None:
        size = self._chance.choice((1, 2, 4, 8))
        value = self._chance.choice(INTEGERS) & (256**size - 1)
        at = self._place(data)
        order = "big" if self._chance.random() < 0.5 else "little"
        data[at : at + size] = value.to_bytes(size, order)

    def _digits(self, data: bytearray) -> None:
        """Replace a number that is written in digits."""
        places = [at for at, byte in enumerate(data[:2048]) if 0x30 <= byte <= 0x39]
        if not places:
            return
        start = end = self._chance.choice(places)
        while end < len(data) and 0x30 <= data[end] <= 0x39:
            end += 1
        data[start:end] = self._chance.choice(DIGITS)

    def _splice(self, data: bytearray) -> None:
        other = self._some()
        del data[self._chance.randrange(len(data) + 1) :]
        data += other[self._chance.randrange(len(other) + 1) :]

    def _swap(self, data: bytearray) -> None:
        one, other = self._range(data), self._range(data)
        if one.stop <= other.start:
            data[one], data[other] = data[other], data[one]
