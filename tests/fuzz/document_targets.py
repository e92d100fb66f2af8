"""Documents and the messages about them: what every client sends."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

import orjson

from edgesync.blip.message import IncomingMessage
from edgesync.documents.body import encode_body, is_blob_digest, parse_body
from edgesync.documents.delta import JSONObject, apply_delta, make_delta
from edgesync.documents.names import check_doc_id, collection_path
from edgesync.documents.rev_id import order, parse_history, parse_rev_id
from edgesync.documents.version_vector import (
    Order,
    compare_identities,
    parse_identity,
    parse_rev,
    split_rev,
)
from edgesync.errors import (
    BodyTooLargeError,
    InvalidBodyError,
    InvalidDeltaError,
    InvalidDocIDError,
    InvalidNameError,
    InvalidRevIDError,
)
from edgesync.limits import Limits
from edgesync.replication.profiles import (
    ChangesReply,
    GetCollections,
    SubChanges,
    parse_changes_reply,
    parse_get_collections,
    parse_proposals,
    parse_sub_changes,
)
from tests.blip.wire import vectors
from tests.fuzz.target import Opened, Target, pure
from tests.loopback import Store
from tests.replication.test_mutations import (
    AT_ONCE,
    Sample,
    check,
    damaged_frames,
    damaged_messages,
    load,
    run_case,
    samples,
)

LIMITS: Final = Limits()
CASES_PER_SAMPLE: Final = 100
JSON_TOKENS: Final = (b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"-0.0", b"\\u",
                      b"\\ud800", b'"@type":"blob"', b'"digest":', b'"_attachments":{', b'"_id":',
                      b'"blob_/a/b":', b'"blob_/_attachments":', b'"blob_1":', b"~1", b"~0",
                      b'"sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="', b'"\\u005fx":')  # fmt: skip


# --- bodies and deltas ----------------------------------------------------------------


def body(data: bytes) -> bool:
    """Parse a body; what it gives out must parse to the same."""
    parsed = parse_body(data, LIMITS)
    again = parse_body(parsed.text, LIMITS)
    assert again == parsed, "a stored body does not stay as it is"
    root = orjson.loads(parsed.text)
    assert not any(name.startswith("_") and name != "_attachments" for name in root)
    assert all(is_blob_digest(blob.digest) for blob in parsed.blobs)
    return True


def delta(data: bytes) -> bool:
    """Apply a delta, `[old, delta]`; the difference that it makes must make the same."""
    value = json_of(data)
    match value:
        case [dict() as old, dict() as change]:
            pass
        case _:
            return False
    before = orjson.dumps(old)
    new = apply_delta(old, change)
    assert orjson.dumps(old) == before, "the old document was changed"
    with suppress(TypeError):  # orjson writes no more than 254 levels; the store takes 100
        text = orjson.dumps(new)
        made: JSONObject = make_delta(old, new)
        assert orjson.dumps(sorted_keys(apply_delta(old, made))) == orjson.dumps(
            sorted_keys(orjson.loads(text))
        ), "making and applying a delta does not agree"
    return True


def sorted_keys(value: object) -> object:
    return orjson.loads(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def json_of(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def delta_seeds() -> list[bytes]:
    found = vectors("deltas.json")
    return [
        json.dumps([each["old"], each["delta"]]).encode()
        for each in (*found["valid"], *found["invalid"])
    ]


def local_body(data: bytes) -> bool:
    """Encode what a program of ours might give, and read it as a peer would."""
    value = json_of(data)
    if not isinstance(value, dict):
        return False
    parse_body(encode_body(value), LIMITS)
    return True


@cache
def body_seeds() -> tuple[bytes, ...]:
    """Return the bodies that real clients pushed, the short ones."""
    bodies = {
        message.body
        for sample in samples()
        for message in sample.messages
        if message.properties.get("Profile") == "rev" and len(message.body) < 2000
    }
    return tuple(sorted(bodies))[:40]


# --- names of revisions and documents ------------------------------------------------------


def text_of(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def rev_id(data: bytes) -> bool:
    """Parse a revision ID, and order it."""
    if (text := text_of(data)) is None:
        return False
    parsed = parse_rev_id(text)
    number, digest = order(parsed)
    assert f"{number}-{digest}" == text
    return True


def history(data: bytes) -> bool:
    """Parse the properties `rev` and `history`, in two lines."""
    if (text := text_of(data)) is None:
        return False
    rev, _, older = text.partition("\n")
    chain = parse_history(rev, older)
    assert parse_history(chain[0], ",".join(chain[1:])) == chain
    return True


def vector(data: bytes) -> bool:
    """Parse a version vector; written and split, it must be the same again."""
    if (text := text_of(data)) is None:
        return False
    identity = parse_identity(text)
    assert parse_identity(str(identity)) == identity
    rev, older = split_rev(str(identity))
    assert parse_rev(rev, older) == identity
    assert compare_identities(identity, identity) is Order.SAME
    return True


def rev_and_history(data: bytes) -> bool:
    """Put `rev` and `history` of version 4, in two lines, together; compare with a second one."""
    if (text := text_of(data)) is None:
        return False
    rev, _, older = text.partition("\n")
    identity = parse_rev(rev, older)
    other = parse_identity("1860010000000000@AAECAwQFBgcICQoLDA0ODw; 2-bb")
    mirrored = {Order.NEWER: Order.OLDER, Order.OLDER: Order.NEWER}
    order_ = compare_identities(identity, other)
    assert compare_identities(other, identity) is mirrored.get(order_, order_)
    return True


def names(data: bytes) -> bool:
    """Check a document ID; read the same text as the name of a collection."""
    if (text := text_of(data)) is None:
        return False
    with suppress(InvalidNameError):
        path = collection_path(text)
        assert collection_path(path) == path
    check_doc_id(text)
    assert len(data) <= 240
    return True


def vector_seeds() -> list[bytes]:
    """Return all texts in the vectors that look like revisions."""
    found: set[str] = set()
    nested: list[object] = [vectors("versions.json"), vectors("propose.json")]
    while nested:
        match nested.pop():
            case dict() as node:
                nested.extend(node.values())
            case list() as node:
                nested.extend(node)
            case str() as text if "@" in text or "-" in text:
                found.add(text)
    return [text.encode() for text in sorted(found) if len(text) < 1000]


# --- bodies of requests ----------------------------------------------------------------------


def profile_bodies(data: bytes) -> bool:
    """Read the same bytes as the body of each request, and of the reply to `changes`."""
    message = IncomingMessage(1, 0, None, LIMITS.max_message_bytes)
    message.properties = {"since": data[:30].decode(errors="replace"), "versioning": "rev-trees"}
    answers = (
        parse_get_collections(data, LIMITS),
        parse_sub_changes(message, data, "rev-trees", LIMITS),
        parse_proposals(data, LIMITS),
        parse_changes_reply({"maxHistory": data[:30].decode(errors="replace")}, data, 20),
    )
    return any(
        isinstance(each, GetCollections | SubChanges | list | ChangesReply) for each in answers
    )


# --- the whole replicator ----------------------------------------------------------------------


def replicator(damage: Callable[[Sample, random.Random], list[bytes]]) -> Target:
    """Return a target that damages recorded conversations; the input only says how."""

    @contextmanager
    def opened(folder: Path) -> Iterator[Opened]:
        conversations = _Conversations(folder, damage)
        yield Opened(conversations.feed)
        conversations.close()

    name = "replicator, " + damage.__name__.removeprefix("damaged_")
    return Target(name, opened, seeds=lambda: [bytes(range(16))], weight=2, short=300)


class _Conversations:
    """One recorded conversation after the other, each against a store of its own."""

    def __init__(
        self, folder: Path, damage: Callable[[Sample, random.Random], list[bytes]]
    ) -> None:
        self._folder = folder
        self._damage = damage
        self._cases = 0
        self._store: Store | None = None
        self._sample = samples()[0]

    def feed(self, data: bytes) -> bool:
        if self._cases % CASES_PER_SAMPLE == 0:
            self._begin(self._cases // CASES_PER_SAMPLE)
        self._cases += 1
        assert self._store is not None
        frames = self._damage(self._sample, random.Random(data + b"%d" % self._cases))
        return run_case(self._store, self._sample, frames) == "rest"

    def _begin(self, number: int) -> None:
        self.close()
        self._sample = samples()[number % len(samples())]
        self._store = Store(self._folder / f"{number}.edgesync", AT_ONCE)
        load(self._store, self._sample)

    def close(self) -> None:
        if self._store is not None:
            check(self._store, self._sample, may_be_new=self._damage is damaged_messages)
            self._store.close()


REV_TOKENS: Final = (b"1-", b"2-bb", b"4294967295-aa", b",", b", ", b";", b"@", b"; 2-bb, 1-aa",
                     b"1860010000000000@AAECAwQFBgcICQoLDA0ODw",
                     b"7fffffffffffffff@Revision+Tree+Encoding")  # fmt: skip
INVALID_REV: Final = (InvalidRevIDError,)
BODY_ERRORS: Final = (InvalidBodyError, BodyTooLargeError)
PAIRS: Final = (b"3-cc\n2-bb,1-aa", b"1-aa\n", b"1860010000000000@AAECAwQFBgcICQoLDA0ODw\n2-bb",
                b"1860010000000001@AAECAwQFBgcICQoLDA0ODw\n"
                b"1860010000000000@BBECAwQFBgcICQoLDA0ODw; 2-bb, 1-aa")  # fmt: skip

TARGETS: Final = (
    Target("body", pure(body), BODY_ERRORS, body_seeds, JSON_TOKENS, 2),
    Target("local body", pure(local_body), BODY_ERRORS, body_seeds, JSON_TOKENS),
    Target(
        "delta",
        pure(delta),
        (InvalidDeltaError,),
        delta_seeds,
        (*JSON_TOKENS, b"0-", b"4=", b"3-", b"2+xy|", b",0,2]", b",0,0]"),
        2,
    ),
    Target("revision ID", pure(rev_id), INVALID_REV, vector_seeds, REV_TOKENS),
    Target("history", pure(history), INVALID_REV, lambda: PAIRS, REV_TOKENS),
    Target("version vector", pure(vector), INVALID_REV, vector_seeds, REV_TOKENS),
    Target("rev and history", pure(rev_and_history), INVALID_REV, lambda: PAIRS, REV_TOKENS),
    Target("names", pure(names), (InvalidDocIDError,), lambda: [b"boiler", b"a.b", b"_default"]),
    Target("bodies of requests", pure(profile_bodies), tokens=JSON_TOKENS),
    replicator(damaged_frames),
    replicator(damaged_messages),
)
