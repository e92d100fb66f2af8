"""`edgesync document`."""

from __future__ import annotations

import json

from edgesync.api.client import path_of
from edgesync.cli import transfer
from edgesync.cli.command import YES, Context, Tree, argument
from edgesync.cli.output import plural
from edgesync.cli.transfer import rows
from edgesync.errors import InvalidBodyError, RequestError, UsageError

KEYSPACE = argument(
    "keyspace",
    metavar="KEYSPACE",
    help="database, database.collection or database.scope.collection",
)
DOC_ID = argument("id", metavar="ID", help="of the document")
REV = argument("--rev", metavar="REV", help="only if this is the current revision")


def add(tree: Tree) -> None:
    """Add the noun."""
    verbs = tree.noun("document", "read and write documents")
    verbs.add("get", "print a document as JSON", get, KEYSPACE, DOC_ID)
    verbs.add(
        "put",
        "store a document",
        put,
        KEYSPACE,
        DOC_ID,
        argument("body", metavar="JSON", nargs="?", help="the document; else standard input"),
        REV,
    )
    verbs.add(
        "delete", "delete a document, here and on all clients", delete, KEYSPACE, DOC_ID, REV, YES
    )
    verbs.add(
        "list",
        "list documents by ID",
        list_some,
        KEYSPACE,
        argument("--start", metavar="ID", default="", help="the ID to begin with"),
        argument("--limit", type=int, default=0, metavar="N", help="how many (default: all)"),
    )
    verbs.add(
        "changes",
        "list the latest change of each document, in order",
        changes,
        KEYSPACE,
        argument("--since", metavar="SEQ", default="0", help='a sequence, or "now"'),
        argument("--limit", type=int, default=0, metavar="N", help="how many (default: all)"),
        argument("--follow", "-f", action="store_true", help="go on with what comes"),
    )
    verbs.add(
        "export",
        "write all documents with their blobs to a file, as lines of JSON",
        export,
        KEYSPACE,
        argument("file", metavar="FILE", help='a new file; "-" is standard output'),
    )
    verbs.add(
        "import",
        "store the documents of a file, as export wrote it",
        import_file,
        KEYSPACE,
        argument("file", metavar="FILE", help='lines of JSON; "-" is standard input'),
        argument("--replace", action="store_true", help="replace documents that are there"),
    )


def get(context: Context) -> None:
    """Print a document."""
    context.out.json(context.client.get(_path(context)))


def put(context: Context) -> None:
    """Store a document, in the place of the current revision or of `--rev`."""
    body = _body(context)
    rev = context.optional("rev") or body.get("_rev") or _current(context)
    query = {"rev": str(rev)} if rev else None
    body.pop("_rev", None)
    saved = context.client.send("PUT", _path(context), body, query=query)
    _tell(context, saved, "stored")


def delete(context: Context) -> None:
    """Delete a document."""
    rev = context.optional("rev") or _current(context)
    context.confirm(f'delete document "{context.text("id")}", here and on all clients')
    deleted = context.client.send("DELETE", _path(context), query={"rev": rev})
    _tell(context, deleted, "deleted")


def list_some(context: Context) -> None:
    """List documents."""
    limit = context.number("limit")
    found = rows(context.client, context.text("keyspace"), context.text("start"), limit)
    if context.out.is_json:
        for row in found:
            context.out.json_line({"id": row["id"], "rev": _rev(row)})
        return
    context.out.table(
        ["ID", "REVISION"],
        [[str(row["id"]), _rev(row)] for row in found],
        empty="there is no document",
    )


def changes(context: Context) -> None:
    """List changes, one to a line, as they come."""
    follow, limit = context.flag("follow"), context.number("limit")
    since = context.text("since")
    if since != "now" and not since.isdecimal():
        raise UsageError(f'--since must be a sequence or "now", not "{since}"')
    query = {"since": since, "limit": limit or None, "feed": "continuous" if follow else "normal"}
    path = path_of(context.text("keyspace"), "_changes")
    with context.client.open("GET", path, query=query, patient=follow) as answer:
        found = answer.lines() if follow else iter(json.loads(answer.read())["results"])
        for change in found:
            if context.out.is_json:
                context.out.json_line(change)
            else:
                context.out.line(_change(change))


def export(context: Context) -> None:
    """Write all documents to a file."""
    keyspace, target = context.text("keyspace"), context.text("file")
    count = transfer.export(context.client, keyspace, target, context.out)
    if target == "-":
        return
    if context.out.is_json:
        context.out.json({"keyspace": keyspace, "file": target, "documents": count})
    else:
        context.out.line(f"{plural(count, 'document')} in {target}")


def import_file(context: Context) -> None:
    """Store the documents of a file."""
    keyspace = context.text("keyspace")
    outcome = transfer.import_file(
        context.client,
        keyspace,
        context.text("file"),
        context.out,
        replace=context.flag("replace"),
    )
    if context.out.is_json:
        context.out.json(
            {"keyspace": keyspace, "stored": outcome.stored, "refused": outcome.refused}
        )
    else:
        for refused in outcome.refused:
            context.out.line(f"{refused['id']}: {refused['reason']}")
        context.out.line(f"{plural(outcome.stored, 'document')} stored")
    if outcome.refused:
        raise RequestError(
            f"{plural(len(outcome.refused), 'document')} not stored",
            hint="--replace replaces those that are there",
        )


def _body(context: Context) -> dict[str, object]:
    text = context.optional("body")
    if text is None:
        if context.stdin.isatty():
            raise UsageError("there is no document", hint="give it as an argument, or pipe it in")
        text = context.stdin.read()
    try:
        body = json.loads(text)
    except ValueError as error:
        raise InvalidBodyError(f"this is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidBodyError("a document is a JSON object")
    return body


def _current(context: Context) -> str | None:
    """Return the current revision, None if there is no document."""
    found = next(rows(context.client, context.text("keyspace"), context.text("id"), 1), None)
    return _rev(found) if found is not None and found["id"] == context.text("id") else None


def _rev(row: dict[str, object]) -> str:
    value = row["value"]
    return str(value["rev"]) if isinstance(value, dict) else ""


def _tell(context: Context, saved: object, verb: str) -> None:
    if context.out.is_json:
        context.out.json(saved)
    elif isinstance(saved, dict):
        context.out.line(f'document "{saved["id"]}" was {verb} as {saved["rev"]}')


def _change(change: dict[str, object]) -> str:
    revs = change.get("changes")
    rev = revs[0]["rev"] if isinstance(revs, list) else ""
    mark = "  deleted" if change.get("deleted") else ""
    return f"{change.get('seq')}  {change.get('id')}  {rev}{mark}"


def _path(context: Context) -> str:
    return path_of(context.text("keyspace"), context.text("id"))
