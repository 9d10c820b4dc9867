"""The form of the deployment ``restore-vm/restore-from-list``: its list of restore points to pick from.

A form's field is a list where its JSON schema has an ``enum``. The schema belongs to the deployment, and is written
anew whenever the flow ``restore-points`` has read the stores.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.exceptions import ObjectNotFound

logger = logging.getLogger("hyperexport.restore_points")

PICK: Final = "restore-vm/restore-from-list"
"""The deployment from which a restore is started by picking a restore point."""

_SECONDS_FOR_AN_ANSWER: Final = 10.0


def offer(names: Sequence[str]) -> None:
    """Have the form offer these restore points. What fails is a warning: an export can be named by its id always."""
    try:
        with get_client(sync_client=True, httpx_settings={"timeout": _SECONDS_FOR_AN_ANSWER}) as client:
            there = client.read_deployment_by_name(PICK)
            schema = offering(there.parameter_openapi_schema or {}, names)
            client.update_deployment(there.id, DeploymentUpdate(parameter_openapi_schema=schema))
    except ObjectNotFound:
        logger.warning("there is no deployment %s, so no form offers the restore points", PICK)
    except Exception as error:  # noqa: BLE001 - whatever the client raises, the list is there as a table
        logger.warning("the form of %s was not updated: %s", PICK, type(error).__name__)


def offering(schema: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A form's schema in which one of these names has to be picked; free text where there is none."""
    properties = dict(schema.get("properties", {}))
    field = {key: value for key, value in properties.get("export", {}).items() if key not in {"enum", "default"}}
    if not names:
        return {**schema, "properties": {**properties, "export": {**field, "default": ""}}, "required": []}
    return {**schema, "properties": {**properties, "export": {**field, "enum": list(names)}}, "required": ["export"]}


def offered_by(schema: dict[str, Any]) -> list[str]:
    """The names that a form's schema offers."""
    return list(schema.get("properties", {}).get("export", {}).get("enum", ()))
