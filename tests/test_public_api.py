"""The front door, frozen: a change here is a change for every user's program."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator

import edgesync

NOT_CALLED = {"BlobReader", "Collection", "Database", "KeyStore", "KeyType", "KeyUsages"}
"""Classes of which users get objects from methods, or by name."""

INSIDE = {
    "Database": {"ask", "ask_all", "connect", "keep_bodies", "on_close", "on_commit"},
    "KeyStore": {"anonymous_identity", "on_change"},
    "Limits": {field.name for field in dataclasses.fields(edgesync.Limits)},
    "ListenerCertificateAuthenticator": {"refusal"},
    "ListenerPasswordAuthenticator": {"authenticate"},
    "TLSIdentity": {"server_tls"},
}
"""What listeners need of these and users are not promised; and the limits, which may change."""

FROZEN = """
BlobReader
    readable()
    readinto(buffer)
    seek(offset, whence=0, /)
    seekable()
Change
    sequence
    doc_id
    rev_id
    deleted
    body_bytes
    vector
Collection
    add_change_listener(listener)
    changes(since=0)
    count
    database
    delete(doc_id, *, parent=None)
    documents(start='')
    get(doc_id)
    last_sequence
    name
    path
    purge(doc_id)
    save(doc_id, body, *, parent=None)
    save_all(edits)
    scope
    set_expiration(doc_id, at_s)
ConnectionInfo
    id
    peer_address
    user
    client
    protocol_version
    collections
    since
    is_active
    revisions_in
    revisions_out
    bytes_in
    bytes_out
ConnectionStatus
    connection_count
    active_connection_count
Database
    backup(directory, *, share_blobs=False, progress=None)
    close()
    collection(name)
    collections
    compact()
    create_collection(name)
    default_collection
    delete()
    delete_collection(name)
    folder
    get_blob(properties)
    is_open
    name
    open(name, *, directory='.', limits=None)
    problem
    save_blob(stream, content_type='application/octet-stream')
    verify(*, progress=None)
    versions_ahead_s
Document
    id
    revision_id
    sequence
    deleted
    body
EdgeSyncError(message, *, hint='')
Edit
    doc_id
    body
    parent=None
    deleted=False
KeyStore
    change_unlock(new)
    check_password(user, password)
    create_identity(label, attributes, *, usages=<KeyUsages.SERVER_AUTH: 64>, expiration=None, issuer=None, key_type=<KeyType.RSA_2048: 1>)
    delete_identity(label)
    export_identity(label, password)
    identity(label)
    import_identity(label, data, password=None)
    labels()
    open(folder, *, unlock, limits=None)
    remove_user(user)
    renew_identity(label, *, expiration=None)
    set_password(user, password)
    users()
KeyType
    P_256
    RSA_2048
KeyUsages
    CERTIFICATE_AUTHORITY
    CLIENT_AUTH
    SERVER_AUTH
Limits
ListenerCertificateAuthenticator(roots_or_delegate)
    from_pem(*files)
ListenerCertificateAuthenticatorDelegate
    callback
ListenerPasswordAuthenticator(callback)
ListenerTotals
    connections=0
    revisions_in=0
    revisions_out=0
    bytes_in=0
    bytes_out=0
TLSIdentity
    label
    certs
    private_key
    anonymous()
    chain_pem()
    expiration
    fingerprint
    from_pem(key_pem, chain_pem)
URLEndpointListener(config)
    add_change_listener(listener)
    addresses
    close_connection(info)
    config
    connections
    follow_interface()
    port
    protocol_versions
    start(*, wait=False)
    status
    stop(*, for_good=True)
    tls_identity
    totals
    urls
    waiting_for
URLEndpointListenerConfiguration
    collections=()
    database=None
    port=0
    network_interface=None
    disable_tls=False
    tls_identity=None
    authenticator=None
    enable_delta_sync=False
    read_only=False
    prove_blobs=False
    key_store=None
    limits=<factory>
"""  # noqa: E501 - a call is one line


def signature(name: str, function: object) -> str:
    """Return a call as a user writes it: names and defaults, no annotations."""
    assert callable(function)
    found = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in found.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    bare = found.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return f"{name}{bare}"


def members(kind: type) -> Iterator[str]:
    """Yield what an object offers: fields in their order, then the rest by name."""
    fields = list(inspect.signature(kind).parameters.values()) if is_value(kind) else []
    inside = INSIDE.get(kind.__name__, set())
    for field in fields:
        if field.name not in inside:
            yield str(field.replace(annotation=inspect.Parameter.empty))
    for name in sorted(own_names(kind) - inside - {field.name for field in fields}):
        value = getattr(kind, name)
        yield signature(name, value) if callable(value) else name


def is_value(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) or issubclass(kind, tuple)


def own_names(kind: type) -> set[str]:
    """Return the public names that classes of ours define, not those of Python's."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("edgesync")]
    return {name for base in ours for name in vars(base) if not name.startswith("_")}


def front_door() -> Iterator[str]:
    """Yield the lines of the front door as it is."""
    for name in sorted(edgesync.__all__):
        kind = getattr(edgesync, name)
        yield name if is_value(kind) or name in NOT_CALLED else signature(name, kind)
        yield from (f"    {member}" for member in members(kind))


def test_the_front_door_is_as_promised() -> None:
    assert "\n".join(front_door()) == FROZEN.strip()


def test_every_name_of_the_front_door_is_listed() -> None:
    assert set(edgesync.__all__) <= set(dir(edgesync))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(edgesync, "Replicator")
