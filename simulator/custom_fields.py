"""Custom attributes: their definitions, and the values that inventory objects have of them.

vSphere API: CustomFieldsManager, ExtensibleManagedObject.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

from collections.abc import Iterable
from typing import Any

from pyVmomi import vim, vmodl

from hyperexport.simulator.inventory import Entity
from hyperexport.simulator.sessions import require
from hyperexport.simulator.world import Managed, World


class CustomFieldsManager(Managed):
    """vim.CustomFieldsManager."""

    kind = vim.CustomFieldsManager

    def __init__(self, world: World) -> None:
        super().__init__(world, "CustomFieldsManager")
        self.field: list[Any] = []
        world.fields = self

    def set_by_name(self, entity: Entity, values: Iterable[tuple[str, str]]) -> None:
        """Give an object values of attributes, which are defined for VMs where they are not yet."""
        for name, value in values:
            known = next((each for each in self.field if each.name == name), None) or self._define(
                name, vim.VirtualMachine
            )
            entity.custom_values[known.key] = value

    def find(self, key: int | str, entity: Entity) -> Any:
        """The attribute with this key or name that such an object can have.

        Raises:
            vmodl.fault.InvalidArgument: There is none.
        """
        for each in self.field:
            if key in {each.key, each.name} and each.managedObjectType in {None, entity.kind}:
                return each
        raise vmodl.fault.InvalidArgument(
            msg=f"There is no custom attribute {key} for a {entity.kind._wsdlName}.", invalidProperty="key"
        )

    def _define(self, name: str, kind: Any) -> Any:
        key = 100 + max((each.key - 99 for each in self.field), default=1)
        made = vim.CustomFieldsManager.FieldDef(key=key, name=name, type=str, managedObjectType=kind)
        self.field.append(made)
        self.world.touch()
        return made

    def AddCustomFieldDef(self, name: str, moType: Any, fieldDefPolicy: Any, fieldPolicy: Any) -> Any:
        del fieldDefPolicy, fieldPolicy  # vSphere API: privileges that a plug-in has of its own
        if any(each.name == name and each.managedObjectType in {None, moType} for each in self.field):
            raise vim.fault.DuplicateName(msg=f"The name '{name}' already exists.", name=name, object=self.ref)
        return self._define(name, moType)

    def RemoveCustomFieldDef(self, key: int) -> None:
        known = next((each for each in self.field if each.key == key), None)
        if known is None:
            raise vim.fault.NotFound(msg=f"There is no custom attribute {key}.")
        self.field.remove(known)
        for entity in self.world.all(Entity):
            entity.custom_values.pop(key, None)
        self.world.touch()

    def SetField(self, entity: Any, key: int, value: str) -> None:
        target = self.world.get(entity)
        require("Global.SetCustomField", target)
        target.custom_values[self.find(key, target).key] = value
        self.world.touch()
