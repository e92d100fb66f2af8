"""Identities and users of the key store. Private keys leave only as encrypted PKCS#12."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import falcon

from edgesync import KeyStore, KeyUsages, TLSIdentity
from edgesync.api.answers import IdentityAnswer
from edgesync.api.box import Box
from edgesync.api.documents import Application
from edgesync.api.requests import answer, read_object, text_in
from edgesync.errors import IdentityNotFoundError, KeyStoreError, RequestError, UnknownNameError
from edgesync.limits import Limits

USAGES: Final[Mapping[str, KeyUsages]] = {
    "server": KeyUsages.SERVER_AUTH,
    "client": KeyUsages.CLIENT_AUTH,
    "authority": KeyUsages.CERTIFICATE_AUTHORITY,
}
MAX_DAYS: Final = 30_000  # a longer life than any board has
PKCS12: Final = "application/x-pkcs12"


def add_routes(application: Application, box: Box, limits: Limits) -> None:
    """Add the paths of this module."""
    for path, resource in (
        ("identities", _Identities(box, limits)),
        ("identities/{label}", _Identity(box)),
        ("identities/{label}/renew", _Renew(box, limits)),
        ("identities/{label}/export", _Export(box, limits)),
        ("unlock", _Unlock(box, limits)),
        ("users", _Users(box)),
        ("users/{name}", _User(box, limits)),
    ):
        application.add_route(f"/_edgesync/{path}", resource)


def describe_identity(identity: TLSIdentity) -> IdentityAnswer:
    """Return what the API tells of an identity."""
    leaf = identity.certs[0]
    return {
        "label": identity.label or "",
        "subject": leaf.subject.rfc4514_string(),
        "issuer": leaf.issuer.rfc4514_string(),
        "fingerprint": identity.fingerprint.hex(":").upper(),
        "valid_from": leaf.not_valid_before_utc.isoformat(),
        "expires_at": identity.expiration.isoformat(),
        "chain": len(identity.certs),
        "pem": identity.chain_pem().decode(),
    }


def _store(box: Box) -> KeyStore:
    if box.is_locked():
        raise KeyStoreError(
            "the key store is locked", hint='unlock it with "edgesync unlock" and its passphrase'
        )
    if (store := box.key_store()) is None:
        raise KeyStoreError(
            "there is no key store", hint="add a section [key_store] to the configuration"
        )
    return store


def _found(store: KeyStore, label: str) -> TLSIdentity:
    if (identity := store.identity(label)) is None:
        raise UnknownNameError("identity", label, store.labels())
    return identity


def _expiration(body: Mapping[str, object]) -> datetime | None:
    days = body.get("days")
    if days is None:
        return None
    if not isinstance(days, int) or isinstance(days, bool) or not 0 < days <= MAX_DAYS:
        raise RequestError(f'"days" must be 1 to {MAX_DAYS}')
    return datetime.now(UTC) + timedelta(days=days)


@dataclass(frozen=True, slots=True)
class _Identities:
    box: Box
    limits: Limits

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        store = _store(self.box)
        identities = (store.identity(label) for label in store.labels())
        answer(response, [describe_identity(each) for each in identities if each is not None])

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        """Create an identity, or import one if the body has `data`, in base64."""
        store = _store(self.box)
        body = read_object(request, self.limits.max_identity_bytes * 2)
        label = text_in(body, "label")
        if "data" in body:
            identity = store.import_identity(label, _data(body), _password(body))
        else:
            identity = self._create(store, label, body)
        self.box.events.tell("identity_added", f'identity "{label}" was added', label=label)
        answer(response, describe_identity(identity), falcon.HTTP_201)

    def _create(self, store: KeyStore, label: str, body: Mapping[str, object]) -> TLSIdentity:
        issuer = body.get("issuer")
        return store.create_identity(
            label,
            _attributes(body, label),
            usages=_usages(body),
            expiration=_expiration(body),
            issuer=_found(store, issuer) if isinstance(issuer, str) else None,
        )


@dataclass(frozen=True, slots=True)
class _Identity:
    box: Box

    def on_get(self, _request: falcon.Request, response: falcon.Response, label: str) -> None:
        answer(response, describe_identity(_found(_store(self.box), label)))

    def on_delete(self, _request: falcon.Request, response: falcon.Response, label: str) -> None:
        store = _store(self.box)
        if label not in store.labels():
            raise UnknownNameError("identity", label, store.labels())
        store.delete_identity(label)
        self.box.events.tell("identity_deleted", f'identity "{label}" was deleted', label=label)
        answer(response, {"label": label, "ok": True})


@dataclass(frozen=True, slots=True)
class _Renew:
    box: Box
    limits: Limits

    def on_post(self, request: falcon.Request, response: falcon.Response, label: str) -> None:
        store = _store(self.box)
        body = read_object(request, self.limits.max_identity_bytes)
        try:
            identity = store.renew_identity(label, expiration=_expiration(body))
        except IdentityNotFoundError as error:
            raise UnknownNameError("identity", label, store.labels()) from error
        self.box.events.tell("identity_renewed", f'identity "{label}" was renewed', label=label)
        answer(response, describe_identity(identity))


@dataclass(frozen=True, slots=True)
class _Export:
    box: Box
    limits: Limits

    def on_post(self, request: falcon.Request, response: falcon.Response, label: str) -> None:
        store = _store(self.box)
        password = text_in(read_object(request, self.limits.max_identity_bytes), "password")
        _found(store, label)
        response.data = store.export_identity(label, password)
        response.content_type = PKCS12
        self.box.events.tell("identity_exported", f'identity "{label}" was exported', label=label)


@dataclass(frozen=True, slots=True)
class _Unlock:
    box: Box
    limits: Limits

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        passphrase = text_in(read_object(request, self.limits.max_identity_bytes), "passphrase")
        if self.box.is_locked():
            self.box.unlock(passphrase)
            self.box.events.tell("unlocked", "the key store was unlocked")
        _store(self.box)
        answer(response, {"ok": True})


@dataclass(frozen=True, slots=True)
class _Users:
    box: Box

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        answer(response, [{"name": name} for name in _store(self.box).users()])


@dataclass(frozen=True, slots=True)
class _User:
    box: Box
    limits: Limits

    def on_put(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        store = _store(self.box)
        password = text_in(read_object(request, self.limits.max_identity_bytes), "password")
        is_new = name not in store.users()
        store.set_password(name, password)
        verb = "added" if is_new else "changed"
        self.box.events.tell(f"user_{verb}", f'user "{name}" was {verb}', user=name)
        answer(response, {"name": name, "new": is_new})

    def on_delete(self, _request: falcon.Request, response: falcon.Response, name: str) -> None:
        store = _store(self.box)
        if name not in store.users():
            raise UnknownNameError("user", name, store.users())
        store.remove_user(name)
        self.box.events.tell("user_removed", f'user "{name}" was removed', user=name)
        answer(response, {"name": name, "ok": True})


def _attributes(body: Mapping[str, object], label: str) -> dict[str, str | list[str]]:
    given = body.get("attributes", {})
    if not isinstance(given, dict) or not all(_is_attribute(value) for value in given.values()):
        raise RequestError('"attributes" must be an object of texts and lists of texts')
    return {"CN": label, **given}


def _is_attribute(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    )


def _usages(body: Mapping[str, object]) -> KeyUsages:
    names = body.get("usages", ["server"])
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) and name in USAGES for name in names)
    ):
        raise RequestError(f'"usages" must be a list of {", ".join(USAGES)}')
    usages = USAGES[names[0]]
    for name in names[1:]:
        usages |= USAGES[name]
    return usages


def _data(body: Mapping[str, object]) -> bytes:
    try:
        return base64.b64decode(text_in(body, "data"), validate=True)
    except ValueError as error:  # binascii.Error is one, too
        raise RequestError('"data" is not base64') from error


def _password(body: Mapping[str, object]) -> str | None:
    password = body.get("password")
    return password if isinstance(password, str) else None
