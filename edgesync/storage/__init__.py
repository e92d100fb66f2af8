"""Keep documents, blobs and checkpoints of a database in one folder, durably.

Knows SQL, files, threads and what happens when a card is full or a page is
damaged. Does not know who asks: a replicator and the public API use the same
calls (`documents.store_calls`), and gevent is not known here at all. Nor does it
decide what a revision is or which one wins: `documents` does.

A database is a folder::

    lock                 held while open, so that another process is refused; while closed
                         it keeps 256 KiB, so that a full card does not hinder the start
    database.sqlite3     documents, revisions, checkpoints (and -wal, -shm beside it)
    blobs/7f/…           the content of blobs, each file named by its digest
    blobs/incoming/      blobs that have not come whole; emptied when it is opened

Theory of operation. `Engine.submit` sorts a batch of calls to threads and never
waits; they go to the threads once per turn of the owner's loop, as waking a
thread costs more than most calls. One thread writes: it collects the revisions
of all peers for some milliseconds, carries them out in one transaction and
answers after the commit, because a commit costs an fsync whatever is in it. As
it is the only writer, there are no locks to wait for and no conflicts between
transactions. A second thread reads beside it, on the snapshot that SQLite's WAL
gives; a third moves blobs, so that an fsync of a large file delays no commit; a
fourth makes backups, looks for damage and finds what nobody needs any more.
Answers go to a queue that the owner empties on its own thread (`Engine.deliver`)
after it was woken.

One failing call does not spoil its neighbours in a transaction: everything that
can be refused is refused before anything is written. If SQLite itself fails,
the transaction is rolled back, all in it are told, and the engine goes on.

The current revision of a document, with its body, is the document's own row;
its other revisions are in a table beside it, and most documents have none. So a
new document costs one lookup and one insert. The obvious other design, one
table of revisions with a pointer to the current one, costs twice the lookups and
pages. A row says whether the document's revisions are one chain, which is when a
revision can be placed without loading its tree.

Every revision gets a version vector, whoever made it; only that of the current
revision is kept. The times in it come from a clock that is saved with each commit.
Bodies of revisions that were replaced are kept for deltas, if anybody takes some,
the latest of all documents within a budget. `housekeeping` says how blobs go.

Sequences count over the whole database and are never given out twice: not after
a purge, nor when a collection is made anew, nor by a backup that was put back,
because clients take a sequence that they have seen as done: see `incarnations`.

Sources: documents.md §2 to §5, §8 to §10 and replication.md §3.3, §3.7.4, §4, §7; the
documentation of SQLite (WAL, result codes) and of fsync(2).
"""
