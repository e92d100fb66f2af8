"""`edgesync invite`: what a phone needs to connect, as a code to scan."""

from __future__ import annotations

import base64
from urllib.parse import urlencode

from edgesync.api.answers import ListenerAnswer, what_is_wrong
from edgesync.cli.command import Context, Tree, argument
from edgesync.errors import EdgeSyncError, UsageError


def add(tree: Tree) -> None:
    """Add the noun."""
    tree.alone(
        "invite",
        "show URL and fingerprint of a listener, and a QR code to scan",
        run,
        argument(
            "listener",
            nargs="?",
            metavar="LISTENER",
            help="as in the configuration; may be left out if there is one",
        ),
        argument("--url", type=int, default=1, metavar="N", help="which of several URLs"),
        argument("--invert", action="store_true", help="for terminals with a light background"),
    )


def run(context: Context) -> None:
    """Show how to connect to a listener."""
    listener = _listener(context)
    urls, number = listener["urls"], context.number("url")
    if not urls:
        raise EdgeSyncError(what_is_wrong(listener), hint='"edgesync doctor" says what to do')
    if not 1 <= number <= len(urls):
        raise UsageError(f"--url {number}: there are {len(urls)}")
    code = invitation(listener, urls[number - 1])
    if context.out.is_json:
        context.out.json(
            {
                "urls": urls,
                "fingerprint": listener["fingerprint"],
                "authentication": listener["authentication"],
                "code": code,
            }
        )
        return
    context.out.qr_code(code, inverted=context.flag("invert"))
    facts = [("url", url) for url in urls]
    facts.append(("fingerprint", listener["fingerprint"] or "none, the connection is plain"))
    facts.append(("authentication", listener["authentication"]))
    context.out.facts(facts)


def _listener(context: Context) -> ListenerAnswer:
    """Return the listener that is named, or the only one."""
    if (name := context.optional("listener")) is not None:
        return context.client.listener(name)
    listeners = context.client.listeners()
    if len(listeners) != 1:
        names = ", ".join(each["name"] for each in listeners)
        raise UsageError("LISTENER is missing", hint=f"there is: {names or 'none'}")
    return listeners[0]


def invitation(listener: ListenerAnswer, url: str) -> str:
    """Return what the QR code says: the URL, and in its fragment `fp` and `auth`.

    `fp` is the SHA-256 of the certificate in base64url and `auth` how to log in, as in
    the TXT record of mDNS. An app pins the certificate by it; what comes before "#"
    is the endpoint.
    """
    said = {"auth": listener["authentication"]}
    if listener["fingerprint"]:
        digest = bytes.fromhex(listener["fingerprint"].replace(":", ""))
        said = {"fp": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), **said}
    return f"{url}#{urlencode(said)}"
