"""BLIP 3: messages with properties over frames, both directions of one connection.

Knows frames, checksums, compression, how messages are cut, numbered, queued
and acknowledged. Knows no socket, thread, log or clock; not what a message
means (`replication`), nor who carries the frames (`net`).

How it works: a `Connection` takes the peer's frames and gives pieces of
messages; it takes messages and gives frames, one at a time, when the peer can
take one.

    frame -> frame.FrameDecoder -> inbox.Inbox -> MessagePiece
    message -> outbox.Outbox -> frame.FrameEncoder -> frame

Order is everything here. One checksum and one deflate stream run through all
frames of a direction, so a frame is made at the moment it is sent and read in
the order it came; the first fault ends the connection, as nothing after it
can be read. Nothing is called back into, and each step does one frame or one
piece of 64 KiB, so whoever drives it decides how much is done at a time.

The obvious other design hands out whole messages. A frame may unpack to a
thousand times its size, and a blob may be larger than the memory of the board;
so a message comes out in pieces as they are inflated, its limit is checked
between them, and a message of one frame, which nearly all are, is exactly one
piece and costs no join.

Sources: blip.md; RFC 1951 for deflate.
"""
