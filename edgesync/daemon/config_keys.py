"""Every key of `edgesync.toml` but the limits: its type, unit, default and reason.

From this table, and from `edgesync.limits` for the section `[limits]`, the reference
and the example are made; tests hold the parser against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from edgesync.limits import Limits

Value = str | bool | int | tuple[str, ...]


class OnReload(Enum):
    """What becomes of connections when a key is changed and the service reloads."""

    KEEPS = "A reload puts it into effect, and connections stay."
    RESTARTS = "A reload restarts this listener alone; its clients come back by themselves."
    RESTARTS_ALL = "A reload restarts all listeners; their clients come back by themselves."
    MAKES = (
        "A reload makes new ones, and connections stay; but a listener that serves all of the"
        " database is restarted. Those that are no longer listed stay, too."
    )
    RESTARTS_ALL_AND_NEXT_START = (
        "A reload restarts all listeners, and their clients come back by themselves; for databases"
        " and the local API it takes effect at the next start, and the log says so."
    )
    NEXT_START = "It takes effect at the next start; a reload only says so in the log."


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a section."""

    name: str
    kind: str
    """The type, in the words of a reader."""
    reason: str
    """What it does, and why its default is what it is."""
    default: Value | None = None
    """None: it can only be left out, which `without` explains."""
    without: str = ""
    example: Value | None = None
    """In place of a default."""
    unit: str = ""
    on_reload: OnReload = OnReload.RESTARTS


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the file."""

    title: str
    header: str
    text: str
    keys: tuple[Key, ...]


TEXT: Final = "a string"
TEXTS: Final = "a list of strings"
SWITCH: Final = "true or false"
NUMBER: Final = "a whole number"

DATABASE: Final = Section(
    "Databases",
    "database.stock",
    "A section for each database. Without any there is one, db. A name is 1 to 240 printable "
    'characters without "/" and "."; it is part of the URL that clients use. On a reload, new '
    "databases are opened; those that are gone from the file are closed when their listeners "
    "have stopped. Their files stay, and the next start opens them for the local API.",
    (
        Key(
            "collections",
            TEXTS,
            'The collections to make if they are missing: "scope.name", or "name" in the default '
            "scope. The default collection is what older clients sync.",
            default=("_default",),
            on_reload=OnReload.MAKES,
        ),
    ),
)
LISTENER: Final = Section(
    "Listeners",
    "listener.field",
    "A section for each listener; any number may serve one database. Without any there is one, "
    "local, for clients on this machine, if there is one database only. On a reload, new "
    "listeners are started, and those that are gone from the file are stopped; a listener of "
    "which nothing has changed is not touched.",
    (
        Key(
            "database",
            TEXT,
            "The database it serves: one, as clients name it in the URL.",
            without="the only one; if there are several it must be given",
            example="stock",
        ),
        Key(
            "collections",
            TEXTS,
            "The collections of it that clients may sync; each is in the list of the database.",
            without="all of the database",
            example=("_default",),
        ),
        Key(
            "interface",
            TEXT,
            "The name of a network interface, or an address of this machine: a box in two "
            "networks serves the one that is meant. What is not there yet is waited for.",
            without="all interfaces",
            example="wlan0",
        ),
        Key(
            "port",
            NUMBER,
            "The default is that of Couchbase's own servers for sync. 0 takes any free one; "
            "clients then start over after each start.",
            default=4984,
            unit="TCP port, 0 to 65535",
        ),
        Key(
            "disable_tls",
            SWITCH,
            "true: plain ws://. The default encrypts, as what goes over radio is heard by others.",
            default=False,
        ),
        Key(
            "tls_identity",
            TEXT,
            "The label of an identity in the key store, which it shows to clients. One that is "
            "renewed there is shown at once, without a reload.",
            without="the anonymous identity, which is self-signed and makes and renews itself",
            example="kitchen",
        ),
        Key(
            "authenticator",
            TEXT,
            'Who may come in: "none": everybody; "password": the users of the key store, which '
            'can be changed at any time; "certificate": who shows one that client_roots vouch '
            "for. The default works before there are users or certificates.",
            default="none",
        ),
        Key(
            "client_roots",
            TEXTS,
            'With "certificate": PEM files with the certificates that vouch for clients: roots, '
            "intermediates or single self-signed ones. Their place is relative to this file. A "
            "reload reads them anew, and restarts the listener if one of them is another.",
            without='none; with "certificate" it must be given',
            example=("technicians-ca.pem",),
        ),
        Key(
            "enable_delta_sync",
            SWITCH,
            "true: changes of documents travel as deltas. It is worth its processor time and "
            "room on the card where documents are large and the network is slow.",
            default=False,
        ),
        Key(
            "read_only",
            SWITCH,
            "true: clients may only pull.",
            default=False,
        ),
        Key(
            "prove_blobs",
            SWITCH,
            "true: a client must prove that it has the blobs its documents refer to, also those "
            "that are stored already; else who knows a digest gets the blob. It costs a round "
            "trip for each blob, so it is for listeners whose clients do not trust each other.",
            default=False,
        ),
        Key(
            "advertise",
            SWITCH,
            "Whether it is announced over mDNS in the networks where it listens, so that nobody "
            "must type its address.",
            default=True,
            on_reload=OnReload.KEEPS,
        ),
    ),
)
KEY_STORE: Final = Section(
    "Key store",
    "key_store",
    "Where certificates, their private keys and the passwords of users are kept, sealed. Without "
    "this section there is none: then nobody can come in by password, and the anonymous "
    "identity is another one after each start.",
    (
        Key(
            "unlock",
            TEXT,
            'What opens it: "credential:NAME", 32 bytes that systemd passes to the service, as '
            'the Debian package sets it up; "file:PATH", a file of 32 bytes and mode 600; '
            '"passphrase", for which "edgesync unlock" asks after each start.',
            without="none; it must be given",
            example="credential:edgesync.key",
            on_reload=OnReload.NEXT_START,
        ),
    ),
)
SECTIONS: Final = (DATABASE, LISTENER, KEY_STORE)

LIMITS_AT_NEXT_START: Final = frozenset(
    {
        "api_idle_timeout_s",
        "blob_grace_s",
        "commit_delay_s",
        "commit_revisions",
        "max_api_body_bytes",
        "max_api_connections",
        "max_chain_certificates",
        "max_clock_skew_s",
        "max_discovered",
        "max_feed_wait_s",
        "max_identity_bytes",
        "max_kept_bodies",
        "max_kept_body_bytes",
        "max_mdns_burst_bytes",
        "max_mdns_bytes_per_s",
        "max_mdns_packet_bytes",
        "max_mdns_remembered_bytes",
    }
)
"""Those of databases, the key store, mDNS and the local API, which outlive their listeners."""
LIMITS_OF_BOTH: Final = frozenset(
    {
        "blob_piece_bytes",
        "max_blob_bytes",
        "max_delta_body_bytes",
        "max_document_bytes",
        "max_revs_depth",
        "min_delta_body_bytes",
    }
)
"""Those that listeners look at, too."""


def limit_on_reload(name: str) -> OnReload:
    """Return what becomes of connections when a limit is changed."""
    if name in LIMITS_OF_BOTH:
        return OnReload.RESTARTS_ALL_AND_NEXT_START
    return OnReload.NEXT_START if name in LIMITS_AT_NEXT_START else OnReload.RESTARTS_ALL


def changed_limits(old: Limits, new: Limits) -> Mapping[str, OnReload]:
    """Return the limits that differ, with what becomes of connections."""
    return {
        name: limit_on_reload(name)
        for name in Limits.__dataclass_fields__
        if getattr(old, name) != getattr(new, name)
    }
