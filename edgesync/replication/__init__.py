"""The passive side of the Couchbase Mobile replication protocol, sans-IO.

Knows the messages of the protocol, what follows which, and the windows that
keep a peer and us bounded. Knows no socket, file, thread, log or clock; not
how a frame looks (`blip`), who wins (`documents`), or where anything is kept
(`storage`).

How it works: a `Replicator` serves one connection. Events go in through
`receive` (a frame, an answer of the store, a commit, a deadline); frames come
out of `frame_to_send` when the peer can take them, questions to the store out
of `store_calls`. Nothing waits: whatever needs an answer leaves a continuation
with a port (`ports`), and the answer calls it. So no two events overlap, and
a state is only ever seen between two events.

    frame -> replicator -> profile table -> checkpoints | rev_finder
             | incoming_revs -> incoming_blobs | changes_feed -> outgoing_revs
             | outgoing_blobs -> ports -> frames, store calls

A coroutine per message would read more like prose, but would need a scheduler
of its own, make the order of effects depend on it, and could not be tested by
handing in events one by one.

Sources: replication.md, and blip.md §1.5 and §6 for what a client makes of
our answers.
"""
