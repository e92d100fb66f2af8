"""What a certificate says about its owner: names, and other names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from edgesync.errors import IdentityError

Attributes = Mapping[str, str | bytes | Sequence[str | bytes]]
"""Keys of `SUBJECT_KEYS` and `OTHER_NAME_KEYS` to their values.

Of the other names a certificate may have several, so their values may be lists.
"""

SUBJECT_KEYS: Final[Mapping[str, x509.ObjectIdentifier]] = {
    "CN": NameOID.COMMON_NAME,
    "pseudonym": NameOID.PSEUDONYM,
    "GN": NameOID.GIVEN_NAME,
    "SN": NameOID.SURNAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "postalAddress": NameOID.POSTAL_ADDRESS,
    "L": NameOID.LOCALITY_NAME,
    "postalCode": NameOID.POSTAL_CODE,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "C": NameOID.COUNTRY_NAME,
}
OTHER_NAME_KEYS: Final = (
    "rfc822Name",
    "dNSName",
    "uniformResourceIdentifier",
    "iPAddress",
    "registeredID",
)


def subject_of(attributes: Attributes) -> x509.Name:
    """Return the subject's name.

    Raises:
        IdentityError: There is no common name, a key is unknown, or a value cannot be one.

    Spec: tls-and-auth.md §4.4.
    """
    if not attributes.get("CN"):
        raise IdentityError(
            'certificate attributes need a common name, "CN"', hint='such as {"CN": "kitchen"}'
        )
    for key in attributes:
        if key not in SUBJECT_KEYS and key not in OTHER_NAME_KEYS:
            raise IdentityError(
                f'there is no certificate attribute "{key}"',
                hint=f"the attributes are {', '.join((*SUBJECT_KEYS, *OTHER_NAME_KEYS))}",
            )
    return x509.Name(
        [_part(key, attributes[key]) for key in SUBJECT_KEYS if key in attributes],
    )


def other_names_of(attributes: Attributes) -> list[x509.GeneralName]:
    """Return the subject's other names; addresses may be text or 4 or 16 bytes.

    Raises:
        IdentityError: A value cannot be such a name.

    Spec: tls-and-auth.md §4.4.
    """
    return [
        _other_name(key, value)
        for key in OTHER_NAME_KEYS
        if key in attributes
        for value in _values(attributes[key])
    ]


def _part(key: str, value: object) -> x509.NameAttribute[str]:
    try:
        if not isinstance(value, str):
            raise TypeError("it is not text")
        return x509.NameAttribute(SUBJECT_KEYS[key], value)
    except (ValueError, TypeError) as error:
        what = "a common name" if key == "CN" else f'the attribute "{key}"'
        raise IdentityError(f'"{value}" cannot be {what}: {error}') from error


def _other_name(key: str, value: str | bytes) -> x509.GeneralName:
    try:
        if key == "iPAddress":
            return x509.IPAddress(ip_address(value))
        if not isinstance(value, str):
            raise TypeError("it is not text")
        if not value:
            raise ValueError("it is empty")
        return _TEXT_NAMES[key](value)
    except (ValueError, TypeError) as error:
        raise IdentityError(f'"{value!r}" cannot be the attribute "{key}": {error}') from error


def _registered_id(dotted: str) -> x509.GeneralName:
    return x509.RegisteredID(x509.ObjectIdentifier(dotted))


_TEXT_NAMES: Final = {
    "rfc822Name": x509.RFC822Name,
    "dNSName": x509.DNSName,
    "uniformResourceIdentifier": x509.UniformResourceIdentifier,
    "registeredID": _registered_id,
}


def _values(value: str | bytes | Sequence[str | bytes]) -> Iterator[str | bytes]:
    if isinstance(value, str | bytes):
        yield value
    else:
        yield from value
