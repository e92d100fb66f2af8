"""`edgesync user`: who may log in by password."""

from __future__ import annotations

from edgesync.api.client import path_of
from edgesync.cli.command import YES, Context, Tree, argument
from edgesync.errors import NameTakenError, UnknownNameError

NAME = argument("name", metavar="NAME", help="of the user")


def add(tree: Tree) -> None:
    """Add the noun."""
    verbs = tree.noun("user", "manage the users of listeners with passwords")
    verbs.add("list", "list all users", list_all)
    verbs.add(
        "add", "add a user; the password is asked for, or read from standard input", add_user, NAME
    )
    verbs.add("password", "change a user's password", change_password, NAME)
    verbs.add("remove", "remove a user", remove, NAME, YES)


def list_all(context: Context) -> None:
    """List all users."""
    names = _names(context)
    if context.out.is_json:
        context.out.json([{"name": name} for name in names])
        return
    context.out.table(["NAME"], [[name] for name in names], empty="there is no user")


def add_user(context: Context) -> None:
    """Add a user."""
    name = context.text("name")
    if name in _names(context):
        raise NameTakenError("user", name)
    _set_password(context, name)
    context.out.done(f'user "{name}" was added')


def change_password(context: Context) -> None:
    """Change a user's password."""
    name = context.text("name")
    if name not in (names := _names(context)):
        raise UnknownNameError("user", name, names)
    _set_password(context, name)
    context.out.done(f'the password of user "{name}" was changed')


def remove(context: Context) -> None:
    """Remove a user."""
    name = context.text("name")
    context.confirm(f'remove user "{name}"')
    context.client.send("DELETE", path_of("_edgesync", "users", name))
    context.out.done(f'user "{name}" was removed')


def _set_password(context: Context, name: str) -> None:
    password = context.secret("Password", repeat=True)
    context.client.send("PUT", path_of("_edgesync", "users", name), {"password": password})


def _names(context: Context) -> list[str]:
    users = context.client.get("/_edgesync/users")
    return [str(user["name"]) for user in users] if isinstance(users, list) else []
