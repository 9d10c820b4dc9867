"""Which user of this machine is at the other end of a loopback connection, as the kernel says.

Loopback ports answer every local user, so on a shared machine another one could read what a server tells. The kernel
knows who made each socket (sock_diag(7)); that needs no password in any client, notebook or browser.
"""

import functools
import logging
import os
import pwd
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

from hyperexport.deployments.http_guard import Application, Receive, Scope, Send, refuse
from hyperexport.errors import UsageError

logger = logging.getLogger(__name__)

EVERY_USER: Final = "any"

_ROOT: Final = 0
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST: Final = struct.Struct("=BBBBI")  # struct inet_diag_req_v2, up to the socket's id
_USER_AND_INODE: Final = struct.Struct("=II")
_USER_AT: Final = _HEADER.size + 4 + 48 + 12  # struct inet_diag_msg: family to retrans, the id, expires to wqueue
_SECONDS: Final = 1.0

Address = tuple[str, int]


def allowed_users(names: Iterable[str]) -> frozenset[int] | None:
    """The numbers of this user, of root (who can read everything anyway) and of those that are named.

    Args:
        names: Of users of this machine; ``any`` stands for all.

    Returns:
        None where every user is allowed.

    Raises:
        UsageError: There is no such user.
    """
    wanted = list(names)
    if EVERY_USER in wanted:
        return None
    try:
        return frozenset({os.getuid(), _ROOT, *(pwd.getpwnam(name).pw_uid for name in wanted)})
    except KeyError as error:
        raise UsageError(
            f"--allow-user: {error.args[0]}", fix=f"Name a user of this machine, or {EVERY_USER}"
        ) from error


def user_of(client: Address, server: Address) -> int | None:
    """The user who made the client's socket of a connection within this machine.

    Args:
        client: The client's address and port.
        server: The server's.

    Returns:
        None where the kernel does not say, or the client has closed the connection: then older kernels say root.
    """
    try:
        family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
        ends = b"".join(socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in (client, server))
        identity = struct.pack("!HH", client[1], server[1]) + ends + struct.pack("=Iq", 0, -1)
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + identity
        head = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(_SECONDS)
            kernel.sendto(head + request, (0, 0))
            answer = kernel.recv(4096)
        if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
            return None
        user, inode = _USER_AND_INODE.unpack_from(answer, _USER_AT)
    except (OSError, ValueError, AttributeError, struct.error):  # AttributeError: no Linux
        return None
    return user if inode else None


@functools.cache
def kernel_tells() -> bool:
    """Whether the kernel says who is at the other end: seen with a connection of our own."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as client,
        ):
            return user_of(client.getsockname(), client.getpeername()) == os.getuid()
    except OSError:
        return False


class LocalUsers:
    """Answers only the requests of certain users of this machine. For servers that are bound to loopback.

    Where the kernel cannot say who asks (it is not Linux), everyone is answered, and a warning is logged.

    Args:
        app: What is guarded.
        users: Their numbers; None for all.
    """

    def __init__(self, app: Application, *, users: frozenset[int] | None) -> None:
        self._app = app
        self._users = users
        if users is not None and not kernel_tells():
            logger.warning("this system does not say which user a connection is of: every local user is answered")
            self._users = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse other users with 403."""
        if scope["type"] in {"http", "websocket"} and self._users is not None and not self._is_allowed(scope):
            words = "this server answers only the user who started it, and those of its --allow-user"
            await refuse(scope, receive, send, 403, words)
        else:
            await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        client: Sequence[Any] | None = scope.get("client")
        server: Sequence[Any] | None = scope.get("server")
        if not client or not server or self._users is None:
            return False
        return user_of((client[0], client[1]), (server[0], server[1])) in self._users
