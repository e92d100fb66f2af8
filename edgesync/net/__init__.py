"""The network: from a bound port to whole WebSocket messages.

Knows TCP, TLS, HTTP, WebSocket, greenlets and network interfaces. Does not
know BLIP, documents or databases: who serves a connection is a callable, who
may connect is a value (`handshake.HandshakeRules`).

How a connection lives:

    acceptor    binds, accepts, counts, and gives each connection a greenlet
    tls         makes the handshake there, under a timeout
    handshake   reads the request, refuses it or answers 101
    passwords   checks names and passwords, not too often for one address
    websocket   takes messages out of the stream and puts frames into it
    session     joins that with a replicator: one greenlet reads, one writes

Before there are connections: `interfaces` tells which addresses there are and
when to look again, `mdns` tells the neighbours (`announcements`: in which
words), and finds them.

Every connection costs bounded memory and bounded time until it has proved to
be a client: the handshake and the request have deadlines and sizes, and when
too many connections are still on their way the oldest of the address that has
most of them gives way to the newest, so that stalled ones lock nobody out. Who
then finds the listener full gets 503 before the upgrade, as clients count only
refused attempts and would otherwise come back every two seconds for ever.

Why pywsgi and gevent-websocket, corrected by subclass, and not a WebSocket
library of its own event loop: their parsing of requests and their encoding of
frames are sound; what is not (close codes, limits, speed of unmasking) is
replaced in `websocket.py` and `handshake.py`, each point named there. Why TLS
by memory BIO and not on the descriptor: a TLS 1.3 key update must be answered
even while a record is half written, and a memory BIO never holds half a
record.

Sources: blip.md §1, tls-and-auth.md §1 to §5 and §7, RFC 6455, RFC 7617,
RFC 9110.
"""
