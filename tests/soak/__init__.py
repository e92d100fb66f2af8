"""A soak: hundreds of clients that come, edit, are cut off and go, for minutes.

    python -m tests.soak --minutes 5 --clients 250

`worker` runs many clients of `tests.active_peer` as greenlets of one process; an
`application` is what a person does with one of them. `served` is edgesyncd, which
also tells how many greenlets it has. At the end all clients of a room, a client that
comes anew, and a model agree, and the service has given back all that it took.

Each document has an owner, who alone edits it, so what it must be at the end is known;
some belong to all of a room, so that there are conflicts: all must agree on one of the
values that somebody wrote.
"""
