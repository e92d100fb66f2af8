"""The types of what the API answers; the server makes them and the client reads them.

Times are text in ISO 8601 with their zone; fingerprints are SHA-256 as `AB:CD:...`.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Refusal(TypedDict):
    """Why a request was not carried out."""

    error: str
    """One word, for programs."""
    reason: str
    hint: str
    """What a person can do; may be empty."""


class Traffic(TypedDict):
    """What went over connections, since the listener was made."""

    connections: int
    revisions_in: int
    revisions_out: int
    bytes_in: int
    bytes_out: int


ListenerState = Literal["serving", "waiting", "stopped"]


class ListenerAnswer(TypedDict):
    """A listener."""

    name: str
    database: str
    collections: list[str]
    state: ListenerState
    problem: str
    """What it waits for, or why it does not serve; empty if it does."""
    urls: list[str]
    interface: str | None
    port: int
    tls: bool
    fingerprint: str | None
    identity: str | None
    """The label in the key store."""
    expires_at: str | None
    """When the certificate ends."""
    authentication: str
    read_only: bool
    delta_sync: bool
    announced_as: list[str]
    """Its names over mDNS."""
    connections: int
    active: int
    totals: Traffic


def what_is_wrong(listener: ListenerAnswer) -> str:
    """Say why a listener does not serve, in words for a person."""
    what = "waits for" if listener["state"] == "waiting" else "does not serve:"
    return f'listener "{listener["name"]}" {what} {listener["problem"]}'


class ConnectionAnswer(TypedDict):
    """A connected client."""

    id: str
    listener: str
    peer: str
    user: str | None
    client: str
    protocol: int
    collections: list[str]
    since: str
    active: bool
    revisions_in: int
    revisions_out: int
    bytes_in: int
    bytes_out: int


class CollectionAnswer(TypedDict):
    """A collection, under the name by which the API knows it."""

    keyspace: str
    documents: int


class DatabaseAnswer(TypedDict):
    """A database."""

    name: str
    folder: str
    open: bool
    problem: str
    """Why it is not open, or what has failed lately; empty if all is well."""
    versions_ahead_s: int
    """How far its versions are ahead of the clock; clients of 4.x refuse more than 120."""
    bytes: int
    """Of its file, without blobs."""
    collections: list[CollectionAnswer]


class DiskAnswer(TypedDict):
    """The file system that holds the state."""

    free_bytes: int
    total_bytes: int
    read_only: bool


class DescriptorsAnswer(TypedDict):
    """The service's file descriptors: each client needs one."""

    used: int
    limit: int


KeyStoreState = Literal["none", "open", "locked"]


class StatusAnswer(TypedDict):
    """All that matters, in one answer."""

    version: str
    pid: int
    started_at: str
    now: str
    config: str
    config_problems: list[str]
    """What of the configuration file is not in effect, and why."""
    state_folder: str
    socket: str
    key_store: KeyStoreState
    disk: DiskAnswer
    descriptors: DescriptorsAnswer
    listeners: list[ListenerAnswer]
    databases: list[DatabaseAnswer]
    mdns_problems: dict[str, str]
    """Why nothing is announced, by interface."""
    problems: list[str]


class IdentityAnswer(TypedDict):
    """An identity in the key store."""

    label: str
    subject: str
    issuer: str
    fingerprint: str
    valid_from: str
    expires_at: str
    chain: int
    """How many certificates there are, the leaf included."""
    pem: str
    """The chain, leaf first."""


class InterfaceAnswer(TypedDict):
    """A network interface."""

    name: str
    up: bool
    addresses: list[str]


class PeerAnswer(TypedDict):
    """A listener that announces itself over mDNS."""

    name: str
    urls: list[str]
    fingerprint: str | None
    authentication: str


class EventAnswer(TypedDict):
    """Something that happened."""

    at: str
    event: str
    text: str
    facts: dict[str, str | int | float | bool | None]


class Step(TypedDict):
    """A line of long work; the last one has `result`, or is a `Refusal`."""

    done: NotRequired[int]
    total: NotRequired[int]
    """In any unit; 0: not known."""
    result: NotRequired[object]


class SavedAnswer(TypedDict):
    """A stored revision."""

    id: str
    rev: str
    ok: bool


class BlobAnswer(TypedDict):
    """A stored blob: the object that stands for it in a body, but for its `@type`."""

    digest: str
    length: int
    content_type: str
