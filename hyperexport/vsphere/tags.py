"""Which VMs have a tag, and the tags of one VM, by vCenter's REST API: the SOAP API knows nothing of tags.

vCenter 7.0 U2 and later answer at ``/api``, older ones (and vcsim) only at ``/rest``, with the same questions in
another dress. A login of its own, which ends with the question. Only vCenters have tags; a host of its own has none.
"""

import base64
import json
import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, Final

import urllib3
from urllib3.exceptions import HTTPError

from hyperexport.errors import (
    HyperExportError,
    LoginRefused,
    PermissionMissing,
    ServerBusy,
    ServerFault,
    TagAmbiguous,
    TaggingUnavailable,
    TagNotFound,
)
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.faults import translate
from hyperexport.vsphere.session import Session

logger = logging.getLogger(__name__)

_SESSION: Final = "vmware-api-session-id"
_NO_SUCH_API: Final = frozenset({404, 405, 501})
_BUSY: Final = frozenset({429, 503})
_DENIED: Final = frozenset({401, 403})
_LARGEST: Final = 64 * 1024 * 1024
"""Bytes of one answer: the ids of all VMs of a full vCenter are some ten."""
_MAX_CONCURRENCY: Final = 200
"""Tags asked for in one request."""


def tagged_vms(session: Session, tags: Iterable[str]) -> frozenset[str]:
    """The VMs that have any of these tags themselves, by managed object id.

    A tag on a folder or a host is not one of the VMs there, as in vSphere's own client.

    Args:
        session: The SOAP login, whose server, user and trust are used.
        tags: Each as ``CATEGORY:NAME``; either may hold colons, as long as only one reading is there.

    Raises:
        TaggingUnavailable: The server has no tagging API.
        TagNotFound: There is no such category or tag.
        TagAmbiguous: Its colons can be read as two tags that are there.
        LoginRefused, ServerUnreachable, ServerBusy, ServerFault: As they say.
    """
    if not session.is_vcenter:
        raise _unavailable(session.address)
    with _login(session.endpoint) as api, _sense_from(session.address):
        ids = [_find(api, tag) for tag in tags]
        return frozenset(
            found["id"]
            for begin in range(0, len(ids), _MAX_CONCURRENCY)
            for tag in api.action(
                "tag-association", "list-attached-objects-on-tags", tag_ids=ids[begin : begin + _MAX_CONCURRENCY]
            )
            for found in tag["object_ids"] or ()
            if found["type"] == "VirtualMachine"
        )


def tags_of(session: Session, moref: str) -> tuple[str, ...]:
    """The tags that a VM has itself, each as ``CATEGORY:NAME``, in alphabetical order; none on a host of its own.

    Raises:
        TaggingUnavailable: The vCenter has no tagging API.
        LoginRefused, ServerUnreachable, ServerBusy, ServerFault: As they say.
    """
    if not session.is_vcenter:
        return ()
    with _login(session.endpoint) as api, _sense_from(session.address):
        found: list[str] = []
        for identity in api.action("tag-association", "list-attached-tags", object_id=_vm(moref)):
            tag = api.get("tag", str(identity))
            category = tag and api.get("category", str(tag["category_id"]))
            if tag and category:
                found.append(f"{category['name']}:{tag['name']}")
        return tuple(sorted(found))


def attach_tags(session: Session, moref: str, tags: Iterable[str]) -> dict[str, HyperExportError]:
    """Attach tags to a VM, each as ``CATEGORY:NAME``.

    Returns:
        Why it was not done, for each tag that could not be attached.
    """
    wanted = list(tags)
    failed: dict[str, HyperExportError] = {}
    if not wanted:
        return failed
    try:
        if not session.is_vcenter:
            raise _unavailable(session.address)
        with _login(session.endpoint) as api:
            for tag in wanted:
                try:
                    with _sense_from(session.address):
                        api.attach(_find(api, tag), _vm(moref), doing=f"attaching the tag {tag}")
                except HyperExportError as error:
                    failed[tag] = error
    except HyperExportError as error:
        failed |= {tag: error for tag in wanted if tag not in failed}
    return failed


def missing_tags(session: Session, tags: Iterable[str]) -> dict[str, HyperExportError]:
    """Which of these tags the server does not have, or does not show, and why."""
    wanted = list(tags)
    try:
        if not wanted:
            return {}
        if not session.is_vcenter:
            raise _unavailable(session.address)
        missing: dict[str, HyperExportError] = {}
        with _login(session.endpoint) as api:
            for tag in wanted:
                try:
                    with _sense_from(session.address):
                        _find(api, tag)
                except HyperExportError as error:
                    missing[tag] = error
        return missing
    except HyperExportError as error:
        return dict.fromkeys(wanted, error)


def _vm(moref: str) -> dict[str, str]:
    return {"id": moref, "type": "VirtualMachine"}


@contextmanager
def _sense_from(address: str) -> Generator[None]:
    """What is JSON need not be an answer: whatever is missing in it, or is something else, is the server's fault."""
    try:
        yield
    except (TypeError, LookupError, AttributeError) as error:
        raise ServerFault(f"reading the tags failed on {address}: its answer is invalid") from error


class _Api:
    """The tagging API, in the dress that the server wears."""

    def __init__(self, pool: urllib3.PoolManager, endpoint: VSphereEndpoint, *, modern: bool) -> None:
        self._pool = pool
        self._modern = modern
        self._headers: dict[str, str] = {}
        self._site = f"https://{endpoint.url.split('/')[2]}"
        self.endpoint = endpoint

    def log_in(self) -> bool:
        """Log in; False where the server has no API of this kind."""
        user, password = self.endpoint.username, self.endpoint.password.get_secret_value()
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()  # RFC 7617; urllib3's own takes only Latin-1
        status, token = self._ask("POST", self._session_path, headers={"Authorization": f"Basic {basic}"})
        if status in _NO_SUCH_API:
            return False
        if status in _DENIED:
            raise LoginRefused(
                f"{self.endpoint.address} refuses the login of {user} to its REST API",
                fix="Check the user name and the password; tags are read there",
            )
        self._headers = {_SESSION: str(self._checked(status, token, "logging in to the REST API"))}
        return True

    def log_out(self) -> None:
        """End the login; what goes wrong is logged, since nothing more can be done about it."""
        try:
            self._ask("DELETE", self._session_path)
        except Exception as error:  # noqa: BLE001 - the answer is there already
            logger.warning("could not log out of the REST API of %s: %s", self.endpoint.address, type(error).__name__)

    def ids(self, kind: str) -> list[str]:
        """All categories, by id."""
        return self._checked(*self._ask("GET", self._path(kind)), f"listing each {kind}")

    def get(self, kind: str, identity: str) -> Mapping[str, Any] | None:
        """A category or tag; None where it is gone, or the user may not see it."""
        status, found = self._ask("GET", self._path(kind, identity))
        if status in {403, 404}:
            return None
        return self._checked(status, found, f"reading a {kind}")

    def tags_of(self, category: str) -> list[str]:
        """The ids of a category's tags."""
        if self._modern:
            return self.action("tag", "list-tags-for-category", category_id=category)
        path = self._path("tag", category) + "?~action=list-tags-for-category"
        return self._checked(*self._ask("POST", path), "listing the tags of a category")

    def action(self, kind: str, name: str, **body: Any) -> Any:
        """What the API does beside reading and writing."""
        path = f"{self._path(kind)}?{'' if self._modern else '~'}action={name}"
        return self._checked(*self._ask("POST", path, body=body), name.replace("-", " "))

    def attach(self, tag: str, to: Mapping[str, str], *, doing: str) -> None:
        """Attach a tag to an object; the answer has no document."""
        path = self._path("tag-association", tag) + ("?action=attach" if self._modern else "?~action=attach")
        status, _ = self._ask("POST", path, body={"object_id": to})
        if status in _DENIED:
            raise PermissionMissing(
                f"{doing} was not allowed on {self.endpoint.address}",
                fix="Give the user a role with vSphere Tagging > Assign or Unassign vSphere Tag there",
            )
        if status != 200:
            self._checked(status, None, doing)

    @property
    def _session_path(self) -> str:
        return "/api/session" if self._modern else "/rest/com/vmware/cis/session"

    def _path(self, kind: str, identity: str | None = None) -> str:
        if self._modern:
            return f"/api/cis/tagging/{kind}" + (f"/{identity}" if identity else "")
        return f"/rest/com/vmware/cis/tagging/{kind}" + (f"/id:{identity}" if identity else "")

    def _ask(
        self, method: str, path: str, *, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        try:
            answer = self._pool.request(
                method,
                self._site + path,
                json=body,
                headers={**self._headers, **(headers or {})},
                redirect=False,  # the login must not follow to wherever an answer points
                preload_content=False,
            )
            with answer:
                data = answer.read(_LARGEST + 1, decode_content=False)
            if len(data) > _LARGEST:
                raise ServerFault(f"reading the tags failed on {self.endpoint.address}: its answer does not end")
            good = answer.status in range(200, 300)  # a login to /api is answered with 201
            found = json.loads(data) if data and good else None
        except (HTTPError, OSError, HTTPException, UnicodeEncodeError) as error:
            raise translate(_underlying(error), doing="reading the tags", endpoint=self.endpoint) from error
        except (ValueError, RecursionError):
            raise ServerFault(f"reading the tags failed on {self.endpoint.address}: its answer is not JSON") from None
        if not self._modern and isinstance(found, dict):
            found = found.get("value")  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
        return (200 if good else answer.status), found  # pyright: ignore[reportUnknownVariableType]

    def _checked(self, status: int, found: Any, doing: str) -> Any:
        if status in _BUSY:
            raise ServerBusy(f"{doing} failed on {self.endpoint.address}: it answers {status}")
        if status != 200 or found is None:
            raise ServerFault(f"{doing} failed on {self.endpoint.address}: it answers {status}")
        return found


@contextmanager
def _login(endpoint: VSphereEndpoint) -> Generator[_Api]:
    """Log in to whichever of the two the server has, and out again."""
    context = endpoint.trust.ssl_context()
    with urllib3.PoolManager(ssl_context=context, retries=False, timeout=urllib3.Timeout(endpoint.timeout)) as pool:
        for modern in (True, False):
            api = _Api(pool, endpoint, modern=modern)
            if api.log_in():
                try:
                    yield api
                finally:
                    api.log_out()
                return
    raise _unavailable(endpoint.address)


def _find(api: _Api, tag: str) -> str:
    """The id of a tag.

    Raises:
        TagNotFound: There is none of that name in that category; those that are there are listed.
        TagAmbiguous: Its colons can be read as two tags that are there.
    """
    categories = _by_name(api, "category", api.ids("category"))
    readings = [(tag[:at], tag[at + 1 :]) for at, sign in enumerate(tag) if sign == ":"]
    known = {category: (name, categories[category]) for category, name in readings if category in categories}
    if not known:
        raise _tag_not_found(f"no category {readings[0][0]!r} of tags", categories, api)
    tags = {category: _by_name(api, "tag", api.tags_of(identity)) for category, (_, identity) in known.items()}
    found = {category: name for category, (name, _) in known.items() if name in tags[category]}
    if not found:
        category, (name, _) = next(iter(known.items()))
        raise _tag_not_found(f"no tag {name!r} in category {category!r}", tags[category], api)
    if len(found) > 1:
        raise TagAmbiguous(
            f"{tag!r} may be any of: "
            + "; ".join(f"tag {name!r} in category {category!r}" for category, name in found.items()),
            fix="Rename one of them, or choose the VMs with --folder, --match or --vm",
        )
    ((category, name),) = found.items()
    return tags[category][name]


def _by_name(api: _Api, kind: str, ids: Iterable[str]) -> dict[str, str]:
    found = ((identity, api.get(kind, identity)) for identity in ids)
    return {str(model["name"]): identity for identity, model in found if model}


def _underlying(error: Exception) -> OSError:
    """The operating system's or OpenSSL's own error inside urllib3's."""
    inside = (error, error.__cause__, error.__context__, *error.args)
    return next((found for found in inside if isinstance(found, OSError)), OSError(_words(error)))


def _words(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - of a broken answer, such as urllib3's IncompleteRead without its length
        return type(error).__name__


def _tag_not_found(what: str, names: Iterable[str], api: _Api) -> TagNotFound:
    known = ", ".join(sorted(names)) or "none"
    return TagNotFound(
        f"{what} is on {api.endpoint.address}, or {api.endpoint.username} may not see it", fix=f"There are: {known}"
    )


def _unavailable(address: str) -> TaggingUnavailable:
    return TaggingUnavailable(
        f"{address} has no tagging API: only vCenter has tags",
        fix="Choose the VMs with --folder, --match or --vm instead",
    )
