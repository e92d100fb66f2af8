"""Keys, certificates and passwords: who we are, whom we believe, and where that is kept.

Knows X.509, PEM, PKCS#12, key types, and the files of a key store. Does not
know sockets, TLS sessions or greenlets, nor the clock: `now` comes in. Making
an RSA key takes a twentieth of a second, stretching a password as much, on a
small board ten times that, without holding the interpreter's lock; callers on
an event loop use a thread. Importing and exporting holds the lock for about
50 ms, on a small board longer: `cryptography` gives no other way.

Certificates are `cryptography.x509.Certificate` everywhere in the program,
but only this package imports `cryptography`; others take the names
`Certificate` and `PrivateKey` from `certificate.py`.

Why certificates look the way they do, serial number 1 and the Netscape
extension included: clients are tested against those that LiteCore makes, so
ours have the same fields.

The key store is a folder (mode 0700, files 0600):

    unlock             the data key, wrapped by the unlock key
    LABEL.identity     a private key and its chain; LABEL percent-encoded
    users              names and the verifiers of passwords
    .new               a change that is being written, or was cut off

Its format, byte by byte, is in `envelope.py`; how it stays whole, in
`keystore.py`. A file per identity, not one for all, so that a damaged one
takes no other with it. The data key is random and never changes; the unlock
key only wraps it, so that another unlock key rewrites one file of 122 bytes.
Not SQLite, whose journal and free pages would keep what was deleted, and not
PKCS#12 or encrypted PEM, which do not tie a file to its name.

What this protects: a card or a backup in other hands, without the unlock key,
and accidents. What it does not: the memory of the running process; a card that
holds its unlock key besides; an older state of a file put back; deleted files
that a card has not erased, from who gets the unlock key later.

Passwords are stretched with scrypt rather than Argon2id, which the versions of
`cryptography` that Debian 13 has do not make.

Source: tls-and-auth.md §3, §4; RFC 8439, RFC 7914, RFC 5869, RFC 5280.
"""
