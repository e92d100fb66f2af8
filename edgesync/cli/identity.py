"""`edgesync identity` and `edgesync unlock`: what the key store keeps."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edgesync.api.answers import IdentityAnswer
from edgesync.api.client import path_of
from edgesync.cli.command import YES, Context, Tree, argument
from edgesync.cli.output import BAD, WARN, Cell, Styled, day
from edgesync.errors import EdgeSyncError

SOON = timedelta(days=30)
LABEL = argument("label", metavar="LABEL", help="of the identity")
DAYS = argument("--days", type=int, metavar="N", help="how long it is valid (default: a year)")
NAMES = (
    argument("--name", metavar="TEXT", help="common name (default: the label)"),
    argument("--organization", metavar="TEXT", help="whose it is"),
    argument("--dns", action="append", metavar="NAME", help="a host name; may be repeated"),
    argument("--ip", action="append", metavar="ADDRESS", help="an address; may be repeated"),
    argument("--email", action="append", metavar="ADDRESS", help="may be repeated"),
    argument("--client", action="store_true", help="for a client, not for a listener"),
)


def add(tree: Tree) -> None:
    """Add the nouns."""
    verbs = tree.noun("identity", "manage certificates and their keys")
    verbs.add("list", "list all identities", list_all)
    verbs.add("show", "show all about an identity", show, LABEL)
    authority = argument("--authority", action="store_true", help="it may issue others")
    verbs.add(
        "create", "make an identity that signs itself", create, LABEL, *NAMES, authority, DAYS
    )
    verbs.add(
        "issue",
        "make an identity that another one signs",
        issue,
        LABEL,
        argument("--issuer", required=True, metavar="LABEL", help="of a certificate authority"),
        *NAMES,
        DAYS,
    )
    verbs.add(
        "import",
        "take an identity from a file, PKCS#12 or PEM",
        import_file,
        LABEL,
        argument("file", metavar="FILE", help="with key and certificates"),
        argument("--encrypted", action="store_true", help="ask for the file's password"),
    )
    verbs.add(
        "export",
        "write an identity to a file, as PKCS#12 with a password",
        export,
        LABEL,
        argument("file", metavar="FILE", help='a new file; "-" is standard output'),
        argument(
            "--certificate", action="store_true", help="only the certificates, as PEM, without key"
        ),
    )
    verbs.add("renew", "make a new certificate for the same key", renew, LABEL, DAYS)
    verbs.add("delete", "delete an identity with its key", delete, LABEL, YES)
    tree.alone("unlock", "open a key store that has a passphrase", unlock)


def list_all(context: Context) -> None:
    """List all identities."""
    identities = context.client.identities()
    if context.out.is_json:
        context.out.json(identities)
        return
    context.out.table(
        ["LABEL", "SUBJECT", "ISSUER", "UNTIL"],
        [
            [each["label"], each["subject"], _issuer(each), _until(each["expires_at"])]
            for each in identities
        ],
        empty="there is no identity",
    )


def show(context: Context) -> None:
    """Show an identity."""
    _show(context, _answered(context.client.get(_path(context))))


def create(context: Context) -> None:
    """Make an identity."""
    usages = ["client" if context.flag("client") else "server"]
    if context.flag("authority"):
        usages = ["authority"]
    _post(context, {"usages": usages})


def issue(context: Context) -> None:
    """Make an identity that another one signs."""
    usages = ["client" if context.flag("client") else "server"]
    _post(context, {"usages": usages, "issuer": context.text("issuer")})


def import_file(context: Context) -> None:
    """Take an identity from a file."""
    value: dict[str, object] = {
        "label": context.text("label"),
        "data": base64.b64encode(Path(context.text("file")).read_bytes()).decode(),
    }
    if context.flag("encrypted"):
        value["password"] = context.secret("Password of the file")
    _show(context, _answered(context.client.send("POST", "/_edgesync/identities", value)))


def export(context: Context) -> None:
    """Write an identity to a file."""
    label, target = context.text("label"), context.text("file")
    if context.flag("certificate"):
        content = _answered(context.client.get(_path(context)))["pem"].encode()
        mode = 0o644
    else:
        content, mode = _exported(context), 0o600
    if target == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise EdgeSyncError(f"{target} exists already", hint="name a new file") from error
    with open(file, "wb") as stream:
        stream.write(content)
    context.out.done(f'identity "{label}" is in {target}')


def renew(context: Context) -> None:
    """Make a new certificate."""
    value = {"days": context.arguments.days}
    _show(context, _answered(context.client.send("POST", _path(context, "renew"), value)))


def delete(context: Context) -> None:
    """Delete an identity."""
    label = context.text("label")
    context.confirm(f'delete identity "{label}" with its key')
    context.client.send("DELETE", _path(context))
    context.out.done(f'identity "{label}" was deleted')


def unlock(context: Context) -> None:
    """Open the key store."""
    context.client.send(
        "POST", "/_edgesync/unlock", {"passphrase": context.secret("Passphrase")}, patient=True
    )
    context.out.done("the key store is open")


def _exported(context: Context) -> bytes:
    body = json.dumps({"password": context.secret("Password for the file", repeat=True)}).encode()
    with context.client.open("POST", _path(context, "export"), body=body) as answer:
        return answer.read()


def _post(context: Context, value: dict[str, object]) -> None:
    attributes: dict[str, object] = {}
    for key, option in (("CN", "name"), ("O", "organization")):
        if given := context.optional(option):
            attributes[key] = given
    for key, option in (("dNSName", "dns"), ("iPAddress", "ip"), ("rfc822Name", "email")):
        if several := context.texts(option):
            attributes[key] = several
    value |= {"label": context.text("label"), "attributes": attributes}
    value["days"] = context.arguments.days
    _show(context, _answered(context.client.send("POST", "/_edgesync/identities", value)))


def _path(context: Context, *more: str) -> str:
    return path_of("_edgesync", "identities", context.text("label"), *more)


def _answered(value: object) -> IdentityAnswer:
    return value  # type: ignore[return-value]  # the service made it so


def _show(context: Context, identity: IdentityAnswer) -> None:
    if context.out.is_json:
        context.out.json(identity)
    else:
        context.out.facts(_facts(identity))


def _facts(identity: IdentityAnswer) -> Iterator[tuple[str, Cell]]:
    yield "label", identity["label"]
    yield "subject", identity["subject"]
    yield "issuer", _issuer(identity)
    yield "fingerprint", identity["fingerprint"]
    yield "valid from", day(identity["valid_from"])
    yield "until", _until(identity["expires_at"])
    yield "certificates", identity["chain"]


def _issuer(identity: IdentityAnswer) -> str:
    return "itself" if identity["issuer"] == identity["subject"] else identity["issuer"]


def _until(moment: str) -> Cell:
    left = datetime.fromisoformat(moment) - datetime.now(UTC)
    style = BAD if left < timedelta(0) else WARN if left < SOON else ""
    return Styled(day(moment), style) if style else day(moment)
