"""What edgesync costs, beside what the same run measures of something simpler.

A floor is what the libraries alone take for the work that cannot be left out,
or what the same service takes with nothing to do; the ratio says what our own
code adds, and may be compared between machines, as microseconds may not.
Nothing is asserted: numbers of a busy machine would fail at random.

How it works: a case is a generator of `Figure`s, run one after another; each
starts an edgesyncd of its own, as a process, and reads its CPU time, memory
and context switches from /proc. The clients are those of tests/active_peer, in
this process: `sync` for one, `Crowd` for many in one thread. So documents per
second are those of a Python client beside the server, but for the case of real
clients, which are processes of their own; CPU time is the server's alone.

    harness.py        figures, the table, the JSON file
    service.py        an edgesyncd to measure
    bodies.py         documents, the same in every run
    unix_http.py      the local API
    crowd.py          many clients in one thread
    floors.py         the libraries alone: a pushed and a pulled document
    bare_tls.py       the libraries alone: an idle connection
    sync_cases.py     one client: ws and wss; blobs
    crowd_cases.py    100 clients at once; latency with 1 to 500
    idle_case.py      1,000 clients that wait
    growth_case.py    10,000 to 1,000,000 documents
    start_case.py     start, idle memory, the command
    real_client_case.py   Couchbase Lite itself, where a library is named
    pouchdb_case.py   PouchDB Server beside it; pouchdb/ has its client
"""
