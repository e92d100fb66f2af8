"""What is kept of passwords."""

from __future__ import annotations

import time
from typing import Final

import pytest

from edgesync.identity.verifiers import Verifiers

VERIFIERS: Final = Verifiers()
SESAME: Final = VERIFIERS.make("sesame")


def test_only_the_password_matches() -> None:
    assert VERIFIERS.matches(SESAME, "sesame")
    for wrong in ("Sesame", "", "sesame ", "sesame\0"):
        assert not VERIFIERS.matches(SESAME, wrong)


def test_a_password_matches_in_either_form_of_unicode() -> None:
    assert VERIFIERS.matches(VERIFIERS.make("p\u00e4ss"), "pa\u0308ss")


def test_the_same_password_has_another_verifier_each_time() -> None:
    assert VERIFIERS.make("sesame") != SESAME
    assert SESAME.startswith("$scrypt$ln=14,r=8,p=1$")
    assert "sesame" not in SESAME


def test_a_verifier_brings_its_own_parameters() -> None:
    # RFC 7914 section 12: "pleaseletmein", "SodiumChloride", N 16384, r 8, p 1; the first 32 bytes.
    verifier = (
        "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU=$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI="
    )
    assert VERIFIERS.matches(verifier, "pleaseletmein")
    # And N 16.
    cheaper = "$scrypt$ln=4,r=1,p=1$AA==$A/BjdbyjsTf8S1KArnwCX7SNBj6u2R5TMNzPamszUpU="
    assert VERIFIERS.matches(cheaper, "sesame")


def test_nobody_has_no_password_and_it_takes_as_long_to_say() -> None:
    def cpu_seconds(verifier: str | None) -> float:
        before = time.process_time()
        assert not VERIFIERS.matches(verifier, "wrong")
        return time.process_time() - before

    known, unknown = (min(cpu_seconds(each) for _ in range(3)) for each in (SESAME, None))
    assert 0.5 < unknown / known < 2


@pytest.mark.parametrize(
    "text", ["x", "$scrypt$ln=14$a$b", SESAME + "$"], ids=["word", "short", "long"]
)
def test_what_is_no_verifier_is_a_bug(text: str) -> None:
    with pytest.raises(ValueError, match="no verifier"):
        VERIFIERS.matches(text, "sesame")
