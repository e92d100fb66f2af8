"""The local HTTP API: programs on this machine, and the command, talk to the service.

Knows HTTP, JSON, tar, Prometheus' text format and one Unix socket. Does not know
how documents are stored, how listeners are made or what is in a configuration
file: it uses the front door, and what only the service can do (restart a
listener, put a backup in place) comes as callables of a `Box`.

How it works. `server` binds the socket, so that only the owner and the group
`edgesync` can connect: who may is the file system's decision, and there are no
passwords here. It is never on the network. pywsgi reads the requests, falcon
finds the resource, a greenlet serves it. `documents`, `attachments` and `feeds`
are the keyspaces, in the form that Couchbase Edge Server and Sync Gateway gave
them; `service`, `upkeep`, `keys` and `metrics` are the box itself. What is
long (a feed, a blob, a backup, a list of all documents) is streamed both ways,
so its size does not count. Long work answers with a line of JSON for each step
and a last one with the outcome. All errors go through one table in `server`.

`answers` has the types of what goes over the socket, `places` where it is, and
`client` asks; these three need the standard library alone, because the command
has to start fast.

Why falcon and not bottle or Flask: those keep the request in thread-locals, which
greenlets share. Why a Unix socket and not a port on loopback: any program of any
user can connect to a port, and a web page can make a browser do it. Why
backups travel through the socket and not as a path: the service runs in a
sandbox that cannot see the folder a person means.

Sources: RFC 9110, RFC 9112; Couchbase Edge Server's and Sync Gateway's public
documentation of their REST APIs; Prometheus' text format.
"""
