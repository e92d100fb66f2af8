"""The server on the Unix socket: binds it, finds the resource, turns errors into answers."""

from __future__ import annotations

import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import unquote

import falcon
from falcon.http_error import HTTPError
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from gevent.socket import socket as GeventSocket

from edgesync.api import attachments, documents, feeds, keys, metrics, service, upkeep
from edgesync.api.answers import Refusal
from edgesync.api.box import Box
from edgesync.api.requests import JSON, encoded
from edgesync.api.statuses import refusal
from edgesync.errors import EdgeSyncError, ListenerError
from edgesync.limits import Limits

log: Final = logging.getLogger(__name__)

GROUP: Final = "edgesync"
MODE: Final = 0o660
MAX_PATH_BYTES: Final = 107  # of a Unix socket's name in Linux


class ApiServer:
    """Serve the API on a Unix socket."""

    def __init__(self, box: Box, path: Path, limits: Limits) -> None:
        """Store what is given.

        Args:
            box: What to serve.
            path: Of the socket; its folder is there.
            limits: `max_api_connections`, `api_idle_timeout_s` and others count.
        """
        self.path = path
        self._application = make_application(box, limits)
        self._limits = limits
        self._pool = Pool(limits.max_api_connections)
        self._server: WSGIServer | None = None

    def start(self) -> None:
        """Bind the socket and serve.

        Raises:
            ListenerError: The socket cannot be made, or another service has it.
        """
        self._server = _Server(
            _bound(self.path),
            self._application,
            spawn=self._pool,
            log=None,
            error_log=log,
            handler_class=_Handler,
            environ={"SERVER_NAME": "localhost", "SERVER_PORT": "0"},
        )
        self._server.idle_timeout_s = self._limits.api_idle_timeout_s
        self._server.start()

    def stop(self, timeout_s: float) -> None:
        """Stop accepting, give requests some time to end, cut the rest, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        with suppress(OSError):
            self.path.unlink()
        self._pool.join(timeout_s)
        self._pool.kill(timeout=1.0)


def make_application(box: Box, limits: Limits) -> falcon.App[falcon.Request, falcon.Response]:
    """Return the WSGI application; its paths come still quoted."""
    application = falcon.App(middleware=[_Unquote()])
    application.req_options.strip_url_path_trailing_slash = True
    application.set_error_serializer(_serialize)
    application.add_error_handler(EdgeSyncError, _refuse)
    application.add_error_handler(Exception, _fail)
    for room in (service, upkeep, keys, metrics, documents, feeds, attachments):
        room.add_routes(application, box, limits)
    return application


class _Unquote:
    """Unquotes names after the path was taken apart, so that they may contain "/"."""

    def process_resource(
        self,
        _request: falcon.Request,
        _response: falcon.Response,
        _resource: object,
        params: dict[str, str],
    ) -> None:
        for name, value in params.items():
            params[name] = unquote(value)


class _Handler(WSGIHandler):
    """pywsgi's, corrected: a quoted "/" in a name does not separate.

    And what pywsgi or http.client trips over is a bad request, without a trace in the log.
    """

    # It returns a bool, whatever its stubs say.
    def read_request(self, raw_requestline: str) -> bool:  # type: ignore[override]
        try:
            return bool(super().read_request(raw_requestline))
        except (IndexError, HTTPException) as error:
            raise ValueError(f"this is no HTTP: {error}") from error

    def handle_error(
        self,
        t: type[BaseException] | None,
        v: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Tell a chunk without a length, which pywsgi discards at the end, from a bug of ours."""
        if isinstance(v, ValueError) and self.wsgi_input and self.wsgi_input.chunked_input:
            self.close_connection = True
            self.log_error("Invalid chunk: %s", v)
        else:
            super().handle_error(t, v, tb)

    def get_environ(self) -> dict[str, object]:
        environ: dict[str, object] = super().get_environ()
        environ["PATH_INFO"] = (self.path or "").partition("?")[0]
        return environ


class _Server(WSGIServer):
    """pywsgi's, corrected: who neither sends nor takes anything is cut off."""

    idle_timeout_s: float = 60.0

    def handle(self, sock: GeventSocket, address: object) -> None:
        sock.settimeout(self.idle_timeout_s)
        super().handle(sock, address)  # type: ignore[arg-type]  # it is "" for a Unix socket


# --- errors ----------------------------------------------------------------------


def _refuse(
    request: falcon.Request,
    response: falcon.Response,
    error: EdgeSyncError,
    _params: Mapping[str, object],
) -> None:
    response.status, content = refusal(error)
    if response.status[0] == "5":
        log.error("%s %s: %s", request.method, request.path, error)
    response.content_type = JSON
    response.data = encoded(content)


def _fail(
    request: falcon.Request,
    response: falcon.Response,
    error: Exception,
    _params: Mapping[str, object],
) -> None:
    log.error("%s %s: a bug of ours", request.method, request.path, exc_info=error)
    _refuse(
        request,
        response,
        EdgeSyncError("the service failed", hint='its log says where: "edgesync logs"'),
        {},
    )


def _serialize(request: falcon.Request, response: falcon.Response, error: HTTPError) -> None:
    """Tell of what falcon itself refuses: paths and methods that are not there."""
    word = error.title.lstrip("0123456789 ").lower().replace(" ", "_")
    reason = error.description or f"{request.method} {request.path} is nothing that edgesyncd knows"
    content: Refusal = {"error": word, "reason": reason, "hint": "the README lists what there is"}
    response.content_type = JSON
    response.data = encoded(content)


# --- the socket -------------------------------------------------------------------


def _bound(path: Path) -> socket.socket:
    """Return a listening socket that owner and group may use; it takes a dead one's place."""
    name = os.fspath(path)
    if len(os.fsencode(name)) > MAX_PATH_BYTES:
        raise ListenerError(
            f"the local API cannot listen on {name}: the name is too long",
            hint="name a shorter one in the environment variable EDGESYNC_SOCKET",
        )
    _remove_dead(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    former = os.umask(0o777 & ~MODE)
    try:
        listening.bind(name)
    except OSError as error:
        listening.close()
        raise _cannot_listen(path, error) from error
    finally:
        os.umask(former)
    _give_to_group(path)
    listening.listen(socket.SOMAXCONN)
    listening.setblocking(False)
    return listening


def _cannot_listen(path: Path, error: OSError) -> ListenerError:
    if error.errno == errno.EADDRINUSE:
        return ListenerError(
            f"the local API cannot listen on {path}: another edgesyncd does",
            hint="stop it, or name another socket in the environment variable EDGESYNC_SOCKET",
        )
    return ListenerError(
        f"the local API cannot listen on {path}: {error.strerror}",
        hint="name another one in the environment variable EDGESYNC_SOCKET",
    )


def _remove_dead(path: Path) -> None:
    """Remove a socket that nobody serves any more, as after a power cut."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError:
            return


def _give_to_group(path: Path) -> None:
    try:
        group = grp.getgrnam(GROUP).gr_gid
        if path.stat().st_gid != group:  # under systemd it is, and the call is forbidden there
            os.chown(path, -1, group)
    except KeyError:
        log.debug("there is no group %s: the socket is for its owner alone", GROUP)
    except OSError as error:
        log.warning("%s cannot be given to the group %s: %s", path, GROUP, error.strerror)
