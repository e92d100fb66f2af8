"""Every bound on a peer, in one place: its default, its unit and its reason.

The defaults suit a board with 512 MB of memory and a few dozen clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may cost. Spec: blip.md §7, replication.md §4, §5."""

    max_connections: int = 200
    """Connections of one listener; further ones get 503 before the upgrade."""
    max_connections_per_address: int = 100
    """Of these from one address: phones behind one router share it."""
    max_pending_connections: int = 100
    """Connections whose request has not come yet; above it the oldest of them is dropped."""
    tls_handshake_timeout_s: float = 10.0
    """From the TCP connection to the end of the TLS handshake."""
    request_timeout_s: float = 15.0
    """From there to the end of the HTTP request's headers; clients give up after 15 s too."""
    max_password_failures: int = 10
    """Wrong passwords from one address; beyond it they are not even looked at, and get 429."""
    password_failure_forgiven_s: float = 6.0
    """One of these is forgiven whenever so much time has passed: ten guesses a minute."""
    max_password_checks: int = 4
    """Passwords that are checked at a time, each in one of gevent's ten threads, with 16 MiB."""
    max_request_line_bytes: int = 4 * KIB
    """Of the HTTP request."""
    max_header_bytes: int = 32 * KIB
    """All HTTP headers together; applications may add cookies of their own."""
    max_headers: int = 100
    """HTTP headers of a request."""
    close_timeout_s: float = 5.0
    """How long our CLOSE waits for the peer's (blip.md §1.5)."""
    ping_interval_s: float = 120.0
    """A PING goes out after this silence, so that a vanished peer is noticed."""
    pong_timeout_s: float = 30.0
    """A peer that is silent this long after our PING is gone."""
    send_timeout_s: float = 60.0
    """A peer that takes not one byte of a frame for this long is gone."""
    max_frame_bytes: int = MIB
    """A WebSocket message; LiteCore's own limit."""
    max_properties_bytes: int = 102_400
    """The properties of a message; LiteCore's own limit."""
    max_properties: int = 256
    """Of one message; clients send a dozen, and small ones would cost 30 times their bytes."""
    max_message_bytes: int = 64 * MIB
    """A message of a peer, inflated, but for the replies to our requests."""
    max_reply_bytes: int = 4 * MIB
    """A reply to a request of ours that is not a blob; 200 entries need some kB."""
    max_buffered_bytes: int = 32 * MIB
    """All bodies of a peer that are not whole yet, or whose blobs are being fetched."""
    max_blob_bytes: int = 4096 * MIB
    """A blob that we ask for."""
    max_document_bytes: int = 20 * MIB
    """The JSON of a document; Sync Gateway's limit. Larger: 413."""
    max_json_depth: int = 100
    """Nested levels in a document; LiteCore parses no more."""
    max_open_messages: int = 256
    """Messages of which the first frames have come and the last have not."""
    max_unanswered_bytes: int = 4 * MIB
    """Bodies and blob pieces that wait for the store; above it the socket stays unread.
    Clients stop by themselves at 2 MiB of unanswered revisions."""
    max_unanswered_requests: int = 4096
    """Requests that wait for the store or for a place in the outbox."""
    max_rev_requests_outstanding: int = 200
    """Revisions we asked for and have not stored; above it `proposeChanges` waits."""
    max_proposals: int = 10_000
    """Entries of one `proposeChanges`; clients send 200."""
    max_collections: int = 256
    """Entries of `getCollections`."""
    max_checkpoint_id_bytes: int = 512
    """A checkpoint ID has about 60 bytes."""
    max_checkpoint_bytes: int = MIB
    """A checkpoint has about 100 bytes, more if its pushed revisions have holes."""
    max_doc_ids_filter: int = 100_000
    """Document IDs in one `subChanges`."""
    changes_batch: int = 200
    """Entries of a `changes` (replication.md §4)."""
    max_changes_unanswered: int = 2
    """`changes` without a reply while a feed catches up; 1 afterwards. More make nobody faster."""
    max_revs_queued: int = 600
    """Requested revisions waiting to be sent, above which no history is read."""
    max_revs_in_transmission: int = 50
    """`rev`s whose last frame has not left."""
    max_rev_bytes_unanswered: int = 2 * MIB
    """Bodies of sent `rev`s without an answer."""
    reply_timeout_s: float = 300.0
    """For an answer to a request of ours, counted from its last sign of life."""
    min_delta_body_bytes: int = 200
    """A smaller document is sent whole: replication.md §4."""
    max_delta_body_bytes: int = 256 * KIB
    """A larger one, too: comparing it would hold up others for milliseconds."""
    max_kept_bodies: int = 5
    """Bodies of earlier revisions kept of a document, to make deltas from."""
    max_kept_body_bytes: int = 32 * MIB
    """Of all documents of a database; the oldest go first."""
    max_clock_skew_s: float = 120.0
    """How far a peer's versions may be ahead of our clock: LiteCore's own limit."""
    max_blob_transfers: int = 8
    """Blobs under way at a time, in each direction; others wait for their turn."""
    max_echoes_remembered: int = 1000
    """Revisions a peer pushed that are not offered back to it (replication.md §4 step 10)."""
    blob_grace_s: float = 3600.0
    """How long a blob that no document refers to stays after anybody had to do with it: its
    document may still be on the way, or somebody be reading it. Looked for as often."""
    blob_piece_bytes: int = 64 * KIB
    """What is read from, or written to, a blob's file at a time."""
    commit_revisions: int = 400
    """Revisions of one group commit: most of what clients send before they wait for answers."""
    commit_delay_s: float = 0.002
    """How long a commit waits for company, and four times that while it keeps coming: longer
    makes clients wait, shorter makes more commits and so more bytes for the card."""
    max_revs_depth: int = 50
    """Revisions kept of each branch (documents.md §2)."""
    max_identity_bytes: int = 256 * KIB
    """A PKCS#12 or PEM file with a key and its chain; a long chain has 20 KiB."""
    max_chain_certificates: int = 10
    """Certificates of such a chain; public chains have 2 to 4."""
    max_api_connections: int = 100
    """Of programs on this machine to the local API; further ones wait."""
    api_idle_timeout_s: float = 60.0
    """A program that sends or takes nothing for this long in the local API is cut off."""
    max_api_body_bytes: int = 32 * MIB
    """JSON of one request of the local API: a document, or many for `_bulk_docs`."""
    max_feed_wait_s: float = 900.0
    """The longest `timeout` of a changes feed with `feed=longpoll`."""
    max_discovered: int = 256
    """Listeners that are taken from one look around over mDNS; anybody can announce more."""
    max_mdns_packet_bytes: int = 9000
    """The largest packet of mDNS there is (RFC 6762 §17)."""
    max_mdns_bytes_per_s: int = 64 * KIB
    """Of mDNS that concerns us, on one interface; a box has 400 bytes to say about itself."""
    max_mdns_burst_bytes: int = 512 * KIB
    """So much of it at once: hundreds of boxes answer one question in the same second."""
    max_mdns_remembered_bytes: int = 256 * KIB
    """What was heard is forgotten after so much; parsed it takes up to thirty times the memory."""
