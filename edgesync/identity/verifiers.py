"""Passwords of users: what is kept to recognise them, from which they cannot be read."""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import b64decode, b64encode
from threading import BoundedSemaphore
from typing import Final

from edgesync.identity.envelope import stretched

_SALT_BYTES: Final = 16
# 16 MiB for 40 ms, on a small board for a third of a second. Verifiers are sealed besides, and
# a box that comes back after a power cut has all its clients at the door.
_LOG2_N: Final = 14
_R: Final = 8
_P: Final = 1
_AT_ONCE: Final = 2
_FORM: Final = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([^$]+)\$([^$]+)")
_NOBODYS: Final = f"$scrypt$ln={_LOG2_N},r={_R},p={_P}${'A' * 22}==${'A' * 43}="


class Verifiers:
    """Make and check verifiers, `$scrypt$ln=14,r=8,p=1$salt$hash`, in base64.

    Checks wait for each other beyond two at a time: each takes 16 MiB, and a
    crowd at the door must not take the memory of a small board.

    A verifier carries its own parameters, so that they may rise later.
    """

    def __init__(self) -> None:
        self._turns = BoundedSemaphore(_AT_ONCE)

    def make(self, password: str) -> str:
        """Return a new verifier of the password; takes as long as checking one."""
        salt = secrets.token_bytes(_SALT_BYTES)
        found = self._stretch(password, salt, _LOG2_N, _R, _P)
        return (
            f"$scrypt$ln={_LOG2_N},r={_R},p={_P}"
            f"${b64encode(salt).decode()}${b64encode(found).decode()}"
        )

    def matches(self, verifier: str | None, password: str) -> bool:
        """Return whether the password is the verifier's.

        Args:
            verifier: None for a user who does not exist: that is false, after
                the same time, so that nobody learns who exists.
            password: In whatever form of Unicode it was typed.

        Raises:
            ValueError: `make` has not made the verifier.
        """
        form = _FORM.fullmatch(verifier or _NOBODYS)
        if form is None:
            raise ValueError("this is no verifier")
        log2_n, r, p = map(int, form.groups()[:3])
        found = self._stretch(password, b64decode(form[4]), log2_n, r, p)
        is_same = hmac.compare_digest(found, b64decode(form[5]))
        # scrypt's own HMAC takes zeros at the end for none.
        return is_same and verifier is not None and "\0" not in password

    def _stretch(self, password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
        with self._turns:
            return stretched(password, salt, log2_n, r, p)
