"""Keys, certificates and passwords: who we are and whom we believe.

Knows X.509, PEM and key types. Does not know sockets, TLS sessions,
greenlets or the clock: `now` comes in. Making an RSA key takes a twentieth
of a second here and more on a small board, without holding the interpreter's
lock; callers on an event loop use a thread.

Certificates are `cryptography.x509.Certificate` everywhere in the program,
but only this package imports `cryptography`; others take the names
`Certificate` and `PrivateKey` from `certificate.py`.

Why certificates look the way they do, serial number 1 and the Netscape
extension included: clients are tested against those that LiteCore makes, so
ours have the same fields.

Source: tls-and-auth.md §4.
"""
