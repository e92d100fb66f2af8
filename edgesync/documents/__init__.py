"""What a document, a revision and a blob are, whoever brings and keeps them.

Knows the syntax and order of revision IDs, which revision of a document wins,
what a body may hold and which blobs it refers to, which names are allowed; and
the words in which the store is asked (`store_calls`). Does not know where
documents are kept, nor how they travel.

Everything here is a function of its arguments: bytes and values in, values or
an error out. A body comes in as the bytes of a peer (`body.parse_body`) and
stays these bytes, as JSON text, on its whole way: into the store, out of it and
to other peers. It is parsed once, to check it; only if it holds something that
must not be stored is it written anew. The obvious other design, to keep parsed
values and write JSON for every peer, costs several times the time and changes
numbers and their spelling on the way.

A revision tree (`rev_tree.RevTree`) is made only when a revision does not
simply follow the current one; the store sees by itself that it does. Conflicts
are refused, so that no tree has two live leaves, and an application never has
to resolve anything here: the client that is late does.

Sources: documents.md, which ships beside this package; RFC 6901 (JSON pointer)
and RFC 8259 (JSON).
"""
