"""An active peer: the client's side of replication.md, for our own tests.

Knows what a Couchbase Lite client does with a server: its checkpoints, how it
proposes, sends and takes revisions, fetches and serves blobs, and settles
conflicts. Knows nothing of edgesync but `edgesync.blip`, so that the two sides
cannot agree on a mistake about replication.

How it works: a `PeerDatabase` holds documents in memory, an `ActiveReplicator`
is a machine without input and output of its own (frames in, frames out, as the
server's), `sync` drives it over a real socket.

    peer_database.py      documents, their revisions, what the server is known to have
    revision.py           a revision, and what a form of revisions has to know
    tree_revisions.py     tree IDs, for protocol 2 and 3
    vector_revisions.py   version vectors, for protocol 4
    peer_delta.py         deltas
    peer_blobs.py         blobs, in memory or as files
    progress.py           checkpoints: which sequences are done
    exchange.py           requests and replies over one BLIP connection
    push_half.py          propose and send
    pull_half.py          subscribe and take
    checkpoint_saver.py   getCheckpoint, setCheckpoint
    active_replicator.py  one connection: all of these
    peer_socket.py        TCP, TLS and WebSocket in one thread
    sync.py               blocking and continuous synchronisation
    folder.py             a folder of JSON files as a database
    joined.py             the machine and the server's replicator, joined in memory
    recorded_server.py    a server made of a recorded conversation
    __main__.py           `python -m tests.active_peer push|pull URL DIR`

It speaks as 2.8, as 3.x or as 4.x: `SyncOptions.protocols`, with the form of the
database's revisions. A database with tree IDs can be upgraded, as 4.0 does it.
What a server should not have said is listed in `Result.complaints`.

Where it differs from a real client: revisions are stored one by one, so replies
come at once; of earlier revisions it keeps the body of the server's only; a
resolved conflict is proposed in the same run even if that is a one-shot one.

One native thread with a select loop drives a connection: Python's `ssl` is not
safe with two threads on one socket, and the server under test may own a gevent
hub of its own.

Sources: replication.md, documents.md, blip.md; the recordings of Couchbase Lite
3.2.4 and 4.0.3 for the order and the flags of everything sent.
"""
