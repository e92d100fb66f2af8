"""`edgesync database`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgesync.api.answers import DatabaseAnswer
from edgesync.api.client import path_of
from edgesync.cli.command import YES, Context, Tree, argument
from edgesync.cli.output import BAD, Cell, Styled, Told, size
from edgesync.errors import EdgeSyncError, StoreDamagedError

PIECE_BYTES = 256 * 1024
NAME = argument("name", metavar="NAME", help="of the database")


def add(tree: Tree) -> None:
    """Add the noun."""
    verbs = tree.noun("database", "show databases and look after them")
    verbs.add("list", "list all databases", list_all)
    verbs.add("show", "show all about a database", show, NAME)
    verbs.add(
        "create",
        "make a database",
        create,
        NAME,
        argument(
            "--collection",
            action="append",
            metavar="NAME",
            dest="collections",
            help="scope.name of a collection to make; may be given several times",
        ),
    )
    verbs.add(
        "backup",
        "copy a database into a file, while it is served",
        backup,
        NAME,
        argument("file", metavar="FILE", help='a new file; "-" is standard output'),
    )
    verbs.add(
        "restore",
        "put a backup in the place of a database",
        restore,
        NAME,
        argument("file", metavar="FILE", help="what backup wrote"),
        YES,
    )
    verbs.add("verify", "look for damage", verify, NAME)
    verbs.add("compact", "give unused room back; writes wait meanwhile", compact, NAME)


def list_all(context: Context) -> None:
    """List all databases."""
    databases = context.client.databases()
    if context.out.is_json:
        context.out.json(databases)
        return
    context.out.table(
        ["NAME", "STATE", "COLLECTIONS", "DOCUMENTS", "SIZE"],
        [_row(each) for each in databases],
        empty="there is no database",
    )


def show(context: Context) -> None:
    """Show a database."""
    _show(context, context.client.database(context.text("name")))


def create(context: Context) -> None:
    """Make a database."""
    name = context.text("name")
    value = {"name": name, "collections": context.texts("collections") or ["_default"]}
    context.client.send("POST", "/_edgesync/databases", value)
    _show(context, context.client.database(name))


def backup(context: Context) -> None:
    """Copy a database into a file."""
    name, target = context.text("name"), context.text("file")
    with (
        _written(target) as file,
        context.out.progress(f"backup of {name}") as told,
        context.client.open(
            "GET", path_of("_edgesync", "databases", name, "backup"), patient=True
        ) as answer,
    ):
        done = 0
        for piece in answer.pieces():
            file.write(piece)
            done += len(piece)
            told(done, answer.length or 0)
        if done != answer.length:
            raise EdgeSyncError("the backup ended early", hint='look at "edgesync logs"')
    if context.out.is_json and target != "-":
        context.out.json({"database": name, "file": target, "bytes": done})
    elif target != "-":
        context.out.line(f'database "{name}" is in {target}, {size(done)}')


def restore(context: Context) -> None:
    """Put a backup in place."""
    name, source = context.text("name"), Path(context.text("file"))
    with source.open("rb") as file:
        context.confirm(f'replace all that is in database "{name}" by {source}')
        with context.out.progress(f"restore of {name}") as told:
            context.client.work(
                path_of("_edgesync", "databases", name, "restore"),
                told,
                body=_pieces(file, told),
                content_type="application/x-tar",
            )
    _show(context, context.client.database(name))


def verify(context: Context) -> None:
    """Look for damage."""
    name = context.text("name")
    findings = verified(context, name)
    if context.out.is_json:
        context.out.json({"database": name, "findings": findings})
    for finding in findings:
        context.out.done(finding)
    if findings:
        raise StoreDamagedError(
            f'database "{name}" is damaged: {len(findings)} findings',
            hint=f'put a backup back with "edgesync database restore {name} FILE"',
        )
    context.out.done(f'database "{name}" is sound')


def verified(context: Context, name: str) -> list[str]:
    """Return what is damaged in a database."""
    with context.out.progress(f"verification of {name}") as told:
        found = context.client.work(path_of("_edgesync", "databases", name, "verify"), told)
    return [str(each) for each in found] if isinstance(found, list) else []


def compact(context: Context) -> None:
    """Give unused room back."""
    name = context.text("name")
    with context.out.progress(f"compaction of {name}") as told:
        result = context.client.work(path_of("_edgesync", "databases", name, "compact"), told)
    if context.out.is_json:
        context.out.json(result)
    elif isinstance(result, dict):
        before, after = size(result["bytes_before"]), size(result["bytes_after"])
        context.out.line(f'database "{name}" had {before} and has {after}')


def _show(context: Context, database: DatabaseAnswer) -> None:
    if context.out.is_json:
        context.out.json(database)
        return
    context.out.facts(_facts(database))
    if database["collections"]:
        context.out.line()
        rows = [(each["keyspace"], each["documents"]) for each in database["collections"]]
        context.out.table(["KEYSPACE", "DOCUMENTS"], rows, empty="")


def _facts(database: DatabaseAnswer) -> Iterator[tuple[str, Cell]]:
    yield "name", database["name"]
    if database["problem"]:
        yield "problem", Styled(database["problem"], BAD)
    if not database["open"]:
        return
    yield "folder", database["folder"]
    yield "size", size(database["bytes"])


def _state(database: DatabaseAnswer) -> Cell:
    if not database["open"]:
        return Styled("closed", BAD)
    return Styled("failing", BAD) if database["problem"] else "open"


def _row(database: DatabaseAnswer) -> list[Cell]:
    return [
        database["name"],
        _state(database),
        len(database["collections"]),
        sum(each["documents"] for each in database["collections"]),
        size(database["bytes"]),
    ]


@contextmanager
def _written(target: str) -> Iterator[BinaryIO]:
    """Give a file that gets its name when all is written; it replaces none."""
    if target == "-":
        yield sys.stdout.buffer
        return
    path = Path(target)
    if path.exists():
        raise EdgeSyncError(f"{path} exists already", hint="name a new file")
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _pieces(file: BinaryIO, told: Told) -> Iterator[bytes]:
    total, done = os.fstat(file.fileno()).st_size, 0
    while piece := file.read(PIECE_BYTES):
        yield piece
        done += len(piece)
        told(done, total)
