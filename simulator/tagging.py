"""Tags, as vCenter's REST API has them since 7.0 U2: ``/api/session`` and ``/api/cis/tagging``.

The part of the vSphere Automation API that reads, attaches and detaches tags (VMware's "vSphere Automation API"
reference, cis, tagging). The older form, ``/rest``, is left to vcsim, which has nothing else. The categories, the tags
and who has them at first come from the specs; categories and tags never change.
"""

import base64
import json
import secrets
import threading
import uuid
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from hyperexport.simulator.sessions import SessionManager

SESSION = "vmware-api-session-id"


class Answer(NamedTuple):
    """An answer of the API: its status, and its JSON document."""

    status: int
    document: Any = None

    @property
    def body(self) -> bytes:
        """The document as bytes; none where there is none."""
        return b"" if self.document is None else json.dumps(self.document).encode()


class Tagging:
    """The tags of one vCenter.

    Args:
        sessions: Who may log in.
        borne: The tags that each VM has, as ``category:name``, by managed object id.
        others: Tags that no VM has.
    """

    def __init__(
        self, sessions: SessionManager, borne: Mapping[str, tuple[str, ...]], *, others: tuple[str, ...]
    ) -> None:
        self._sessions = sessions
        self._tokens: set[str] = set()
        self._lock = threading.Lock()
        self._tags = {tag: _urn("Tag", tag) for tag in chain(others, *borne.values())}
        self._categories = {name: _urn("Category", name) for name in map(_category, self._tags)}
        self._bearers = {urn: [vm for vm, tags in borne.items() if tag in tags] for tag, urn in self._tags.items()}

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer one request."""
        parts = urlsplit(path)
        place = [unquote(part) for part in parts.path.split("/")[2:]]
        if place == ["session"]:
            return self._session(method, headers)
        if headers.get(SESSION) not in self._tokens:
            return _refusal(401, "UNAUTHENTICATED")
        if place[:2] != ["cis", "tagging"]:
            return _refusal(404, "NOT_FOUND")
        action = parse_qs(parts.query).get("action", [""])[0]
        try:
            found = (
                self._read(place[2:]) if method == "GET" else self._act(place[2:], action, json.loads(body or b"{}"))
            )
        except (ValueError, KeyError, TypeError):  # a client that died within its request
            return _refusal(400, "INVALID_ARGUMENT")
        if isinstance(found, Answer):
            return found
        return _refusal(404, "NOT_FOUND") if found is None else Answer(200, found)

    def _read(self, place: Sequence[str]) -> Any:
        """What lies at a place; None where nothing does."""
        match place:
            case ["category"]:
                return list(self._categories.values())
            case ["category", identity]:
                return {urn: _named(urn, name) for name, urn in self._categories.items()}.get(identity)
            case ["tag", identity]:
                return {urn: self._tag(urn, tag) for tag, urn in self._tags.items()}.get(identity)
            case _:
                return None

    def _act(self, place: Sequence[str], action: str, asked: Mapping[str, Any]) -> Any:
        """What an action answers; None where there is no such action."""
        match place, action:
            case ["tag"], "list-tags-for-category":
                within = asked["category_id"]
                return [urn for tag, urn in self._tags.items() if self._category_of(tag) == within]
            case ["tag-association"], "list-attached-objects-on-tags":
                return [self._attached(urn) for urn in asked["tag_ids"] if urn in self._bearers]
            case ["tag-association"], "list-attached-tags":
                return [urn for urn, bearers in self._bearers.items() if asked["object_id"]["id"] in bearers]
            case ["tag-association", urn], "attach" | "detach" if urn in self._bearers:
                return self._attach(urn, asked["object_id"]["id"], attached=action == "attach")
            case _:
                return None

    @property
    def open_sessions(self) -> int:
        """How many logins have not been ended."""
        return len(self._tokens)

    def _session(self, method: str, headers: Mapping[str, str]) -> Answer:
        with self._lock:
            if method == "DELETE":
                self._tokens.discard(headers.get(SESSION, ""))
                return Answer(204)
            scheme, _, encoded = headers.get("Authorization", "").partition(" ")
            name, _, password = base64.b64decode(encoded).decode().partition(":") if scheme == "Basic" else ("", "", "")
            if self._sessions.by_password(name, password) is None:
                return _refusal(401, "UNAUTHENTICATED")
            token = secrets.token_hex(16)
            self._tokens.add(token)
            return Answer(201, token)

    def _attach(self, urn: str, bearer: str, *, attached: bool) -> Answer:
        with self._lock:
            others = [each for each in self._bearers[urn] if each != bearer]
            self._bearers[urn] = [*others, bearer] if attached else others
        return Answer(204)

    def _tag(self, urn: str, tag: str) -> dict[str, Any]:
        return {**_named(urn, tag.partition(":")[2]), "category_id": self._category_of(tag)}

    def _category_of(self, tag: str) -> str:
        return self._categories[_category(tag)]

    def _attached(self, urn: str) -> dict[str, Any]:
        return {"tag_id": urn, "object_ids": [{"id": vm, "type": "VirtualMachine"} for vm in self._bearers[urn]]}


def _category(tag: str) -> str:
    return tag.partition(":")[0]


def _urn(kind: str, name: str) -> str:
    return f"urn:vmomi:InventoryService{kind}:{uuid.uuid5(uuid.NAMESPACE_URL, f'{kind}/{name}')}:GLOBAL"


def _named(urn: str, name: str) -> dict[str, Any]:
    return {"id": urn, "name": name, "description": "", "used_by": []}


def _refusal(status: int, kind: str) -> Answer:
    return Answer(status, {"error_type": kind, "messages": []})
