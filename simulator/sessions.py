"""Who is logged in: users, sessions with an end, and which privileges each holds.

Sessions are known by the ``vmware_soap_session`` cookie. One that was idle for too long ends (30 minutes on a real
vCenter), and with it go the leases, views and collectors that it opened.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

import secrets
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pyVmomi import vim, vmodl

from hyperexport.simulator.spec import Permission, UserSpec
from hyperexport.simulator.world import Managed, World, now

COOKIE = "vmware_soap_session"

# Every role of a vCenter holds these (vSphere Security: system-defined privileges).
_EVERY_ROLE = frozenset({"System.Anonymous", "System.View", "System.Read"})

current: ContextVar["Session | None"] = ContextVar("current session", default=None)
"""The session in which the present call is made."""


@dataclass
class Session:
    """One login."""

    user: UserSpec
    key: str = field(default_factory=lambda: f"52{uuid.uuid4()}")
    cookie: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)
    began: datetime = field(default_factory=now)
    last_active: datetime = field(default_factory=now)
    idle_since: float = field(default_factory=time.monotonic)
    calls: int = 0
    user_agent: str = ""
    """What the client called itself when it logged in."""
    closers: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What has to be closed when the session ends, by the id of the managed object."""
    collector: Any = None
    """Its own property collector, which every client calls by the same id."""

    def holds(self, privilege: str, obj: Managed) -> bool:
        """Tell whether the user holds a privilege on an object, by the roles that were given there or above.

        vSphere Security, "Hierarchical Inheritance of Permissions": a permission on the object itself takes the place
        of what it inherits; where it has several parents, what is held on any of them counts. What leads to an object
        on which a role was given can be seen (System.View), so that the object can be found.
        """
        if not self.user.permissions:
            return _grants(self.user.privileges, privilege)
        entity = obj.place
        if entity is None:  # the services belong to the root folder, and any logged-in user may call them
            root = next((each for each in self.user.permissions if not each.path), None)
            return privilege in _EVERY_ROLE or (root is not None and _grants(root.privileges, privilege))
        if any(_grants(each.privileges, privilege) for each in self._decisive(entity, inherited=False)):
            return True
        below = f"{_path(entity)}/"
        return privilege == "System.View" and any(each.path.startswith(below) for each in self.user.permissions)

    def _decisive(self, entity: Managed, *, inherited: bool) -> list[Permission]:
        own = [each for each in self.user.permissions if each.path == _path(entity)]
        own = [each for each in own if each.propagate or not inherited]
        return own or [found for above in entity.authorities for found in self._decisive(above, inherited=True)]

    def as_data(self) -> Any:
        """The session as the API shows it."""
        return vim.UserSession(
            key=self.key,
            userName=self.user.name,
            fullName=self.user.name,
            loginTime=self.began,
            lastActiveTime=self.last_active,
            locale="en",
            messageLocale="en",
            extensionSession=False,
            ipAddress="127.0.0.1",
            userAgent=self.user_agent,
            callCount=self.calls,
        )


def require(privilege: str, obj: Managed) -> None:
    """Refuse the present call unless its user holds a privilege.

    Raises:
        vim.fault.NoPermission: The user's role lacks it.
    """
    if not may(privilege, obj):
        raise no_permission(privilege, obj)


def may(privilege: str, obj: Managed) -> bool:
    """Tell whether the user of the present call holds a privilege on an object."""
    session = current.get()
    return session is not None and session.holds(privilege, obj)


def _grants(held: frozenset[str] | None, privilege: str) -> bool:
    return held is None or privilege in held or privilege in _EVERY_ROLE


def _path(entity: Managed) -> str:
    return str(getattr(entity, "path", ""))


def own_by_session(obj: Managed, close: Any) -> None:
    """Have an object closed when the session that made it ends."""
    session = current.get()
    if session:
        session.closers[obj.moid] = close


def disown(obj: Managed) -> None:
    """The object is closed; its session need not do it."""
    session = current.get()
    if session:
        session.closers.pop(obj.moid, None)


def no_permission(privilege: str, obj: Managed) -> Any:
    """The fault that names the object and the privilege that is missing on it."""
    return vim.fault.NoPermission(
        msg="Permission to perform this operation was denied.", object=obj.ref, privilegeId=privilege
    )


class SessionManager(Managed):
    """vim.SessionManager: logins and logouts."""

    kind = vim.SessionManager

    def __init__(self, world: World, users: tuple[UserSpec, ...], timeout: float) -> None:
        super().__init__(world, "SessionManager")
        self._users = {user.name.lower(): user for user in users}
        self._timeout = timeout
        self._sessions: dict[str, Session] = {}
        self.supportedLocaleList = ["en"]
        self.messageLocaleList = ["en"]
        self.defaultLocale = "en"

    # -- for the server ------------------------------------------------------------------------------------------------

    def live(self) -> list[Session]:
        """The sessions that have not ended."""
        with self.world.lock:
            return list(self._sessions.values())

    def by_cookie(self, cookie: str | None) -> Session | None:
        """The live session with this cookie; using it makes it young again."""
        with self.world.lock:
            self.expire()
            session = self._sessions.get((cookie or "").strip('"'))
            if session:
                session.idle_since = time.monotonic()
                session.last_active = now()
            return session

    def by_name(self, name: str) -> UserSpec | None:
        """The user of this name."""
        return self._users.get(name.lower())

    def by_password(self, name: str, password: str) -> UserSpec | None:
        """The user with this name and password."""
        user = self.by_name(name)
        matches = user is not None and secrets.compare_digest(user.password.encode(), password.encode())
        return user if matches else None

    def expire(self) -> float | None:
        """End the sessions that were idle for too long; answer the seconds until the next may end."""
        with self.world.lock:
            left = {
                cookie: session.idle_since + self._timeout - time.monotonic()
                for cookie, session in self._sessions.items()
            }
            for cookie in [cookie for cookie, seconds in left.items() if seconds <= 0]:
                self._end(self._sessions[cookie])
            return min((seconds for seconds in left.values() if seconds > 0), default=None)

    def end_all(self) -> None:
        """End every session at once, as a restart of the service does."""
        with self.world.lock:
            for session in list(self._sessions.values()):
                self._end(session)

    def _end(self, session: Session) -> None:
        self._sessions.pop(session.cookie, None)
        for close in list(session.closers.values()):
            close()
        self.world.touch()

    # -- vSphere properties and methods --------------------------------------------------------------------------------

    @property
    def currentSession(self) -> Any:
        session = current.get()
        return session.as_data() if session else None

    @property
    def sessionList(self) -> list[Any]:
        return [session.as_data() for session in self._sessions.values()]

    def Login(self, userName: str, password: str, locale: str | None) -> Any:
        del locale  # every message is in English
        if current.get() is not None:
            raise vim.fault.InvalidLogin(msg="The session is already logged in.")
        user = self.by_password(userName, password)
        if user is None:
            raise vim.fault.InvalidLogin(msg="Cannot complete login due to an incorrect user name or password.")
        session = Session(user)
        self._sessions[session.cookie] = session
        current.set(session)
        self.world.touch()
        return session.as_data()

    def Logout(self) -> None:
        session = current.get()
        assert session is not None
        self._end(session)

    def SessionIsActive(self, sessionID: str, userName: str) -> bool:
        return any(
            session.key == sessionID and session.user.name.lower() == userName.lower()
            for session in self._sessions.values()
        )

    def TerminateSession(self, sessionId: list[str]) -> None:
        for key in sessionId:
            session = next((each for each in self._sessions.values() if each.key == key), None)
            if session is None:
                raise vim.fault.NotFound(msg=f"There is no session {key}.")
            self._end(session)


class AuthorizationManager(Managed):
    """vim.AuthorizationManager: which privileges exist, and who holds them."""

    kind = vim.AuthorizationManager

    def __init__(self, world: World, sessions: SessionManager) -> None:
        super().__init__(world, "AuthorizationManager")
        self._sessions = sessions
        self._known = _privileges_of_the_api()

    @property
    def privilegeList(self) -> list[Any]:
        return [
            vim.AuthorizationManager.Privilege(
                privId=privilege,
                onParent=False,
                name=privilege.rpartition(".")[2],
                privGroupName=privilege.rpartition(".")[0],
            )
            for privilege in self._known
        ]

    def HasPrivilegeOnEntity(self, entity: Any, sessionId: str, privId: list[str]) -> list[bool]:
        obj = self.world.get(entity)
        session = self._session(sessionId)
        for privilege in privId:
            if privilege not in self._known:
                raise vmodl.fault.InvalidArgument(msg=f"There is no privilege {privilege}.", invalidProperty="privId")
        return [session.holds(privilege, obj) for privilege in privId]

    def HasPrivilegeOnEntities(self, entity: list[Any], sessionId: str, privId: list[str]) -> list[Any]:
        return [
            vim.AuthorizationManager.EntityPrivilege(
                entity=each,
                privAvailability=[
                    vim.AuthorizationManager.PrivilegeAvailability(privId=privilege, isGranted=granted)
                    for privilege, granted in zip(
                        privId, self.HasPrivilegeOnEntity(each, sessionId, privId), strict=True
                    )
                ],
            )
            for each in entity
        ]

    def FetchUserPrivilegeOnEntities(self, entities: list[Any], userName: str) -> list[Any]:
        user = self._sessions.by_name(userName)
        if user is None:
            raise vim.fault.NotFound(msg=f"There is no user {userName}.")
        holder = Session(user)
        return [
            vim.AuthorizationManager.UserPrivilegeResult(
                entity=each,
                privileges=[one for one in self._known if holder.holds(one, self.world.get(each))],
            )
            for each in entities
        ]

    def _session(self, key: str) -> Session:
        session = next((each for each in self._sessions.live() if each.key == key), None)
        if session is None:
            raise vim.fault.NotFound(msg="There is no such session.")
        return session


# Privileges that no method of the API is annotated with, and that real roles have.
_NOT_ON_METHODS = frozenset(
    {
        "Cryptographer.Access",
        "Datastore.AllocateSpace",
        "Datastore.Browse",
        "Datastore.FileManagement",
        "InventoryService.Tagging.AttachTag",
        "Network.Assign",
        "VApp.Export",
        "VirtualMachine.Config.AddExistingDisk",
        "VirtualMachine.Config.AddNewDisk",
        "VirtualMachine.Config.Annotation",
        "VirtualMachine.Config.ChangeTracking",
        "VirtualMachine.Config.DiskExtend",
        "VirtualMachine.Config.Settings",
        "VirtualMachine.Inventory.Delete",
        "VirtualMachine.Provisioning.DiskRandomAccess",
        "VirtualMachine.Provisioning.DiskRandomRead",
        "VirtualMachine.Provisioning.GetVmFiles",
    }
)


def _privileges_of_the_api() -> tuple[str, ...]:
    kinds: tuple[Any, ...] = (
        vim.VirtualMachine,
        vim.vm.Snapshot,
        vim.SessionManager,
        vim.AuthorizationManager,
        vim.ResourcePool,
    )
    kinds += (vim.Folder, vim.Datacenter, vim.Datastore, vim.HostSystem, vim.OvfManager, vim.ServiceInstance)
    annotated = {info.privId for kind in kinds for info in kind._GetMethodList() if info.privId}
    return tuple(sorted(annotated | _NOT_ON_METHODS | _EVERY_ROLE))
