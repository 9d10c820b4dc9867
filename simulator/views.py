"""Views: the objects below a container, always as they are now, for a property collector to begin at.

vSphere API: ViewManager, ContainerView, ListView. A view belongs to the session that made it.
"""

# ruff: noqa: D102 - what has a name of the vSphere API is documented there

from collections.abc import Iterator
from typing import Any

from pyVmomi import vim

from hyperexport.simulator.sessions import disown, may, own_by_session
from hyperexport.simulator.world import Managed, World


class ContainerView(Managed):
    """vim.view.ContainerView: the objects below a container, always as they are now."""

    kind = vim.view.ContainerView

    def __init__(self, world: World, container: Managed, kinds: list[Any], recursive: bool) -> None:
        super().__init__(world, f"session{world.new_id('view')}")
        self.container = container.ref
        self.type = list(kinds)
        self.recursive = recursive
        self._container = container

    @property
    def view(self) -> list[Any]:
        wanted = tuple(self.type) or (vim.ManagedEntity,)
        return [
            child.ref
            for child in below(self._container, self.recursive)
            if issubclass(child.kind, wanted) and may("System.View", child)
        ]

    def DestroyView(self) -> None:
        disown(self)
        self.world.remove(self)


class ListView(Managed):
    """vim.view.ListView: the objects that the client named."""

    kind = vim.view.ListView

    def __init__(self, world: World, objects: list[Any]) -> None:
        super().__init__(world, f"session{world.new_id('view')}")
        self.view = list(objects)

    def DestroyView(self) -> None:
        disown(self)
        self.world.remove(self)


class ViewManager(Managed):
    """vim.view.ViewManager."""

    kind = vim.view.ViewManager

    def CreateContainerView(self, container: Any, type: list[Any], recursive: bool) -> Any:  # noqa: A002
        return self._keep(ContainerView(self.world, self.world.get(container), type, recursive))

    def CreateListView(self, obj: list[Any]) -> Any:
        return self._keep(ListView(self.world, obj))

    def _keep(self, view: Any) -> Any:
        self.world.add(view)
        own_by_session(view, view.DestroyView)
        return view.ref


def below(container: Any, recursive: bool) -> Iterator[Managed]:
    """The inventory objects in a container, with those in its containers if asked."""
    for child in container.children():
        yield child
        if recursive:
            yield from below(child, recursive)
