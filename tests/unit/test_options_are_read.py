"""No option is accepted and ignored: for each one there is code outside the model that reads it.

Found in the source, not in a run: an option counts as read where its attribute is taken of its group, or of a name that
holds the group, outside ``hyperexport/options/``; or where a method or property of the group that reads it is.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from hyperexport.options.precedence import ExportOptions, Leaf, leaves

ROOT = Path(__file__).parents[2]
GROUPS_MODULE = ROOT / "hyperexport" / "options" / "groups.py"
MODEL = {ROOT / "hyperexport" / "options" / "precedence.py", GROUPS_MODULE}
ROOMS = ("blocks", "cli", "deployments", "flows", "hyperexport", "tasks")
GROUPS = {
    field.annotation.__name__: name
    for name, field in ExportOptions.model_fields.items()
    if isinstance(field.annotation, type)
}
"""The name of each group's class, and of the field that holds it."""


def sources() -> Iterator[ast.Module]:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if path not in MODEL:
                yield ast.parse(path.read_text(), str(path))


def group_of(value: ast.expr | None, held: dict[str, str]) -> str | None:
    """The group that an expression is, as far as its last name tells."""
    match value:
        case ast.Attribute(attr=name) if name in GROUPS.values():
            return name
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return held.get(name)
    return None


def holders(nodes: list[ast.AST]) -> dict[str, str]:
    """Names that hold a group: annotated with its class, or assigned from what holds it."""
    held: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.arg) and isinstance(node.annotation, ast.Name) and node.annotation.id in GROUPS:
            held[node.arg] = GROUPS[node.annotation.id]
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and (group := group_of(node.value, held)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            held |= {getattr(target, "id", None) or getattr(target, "attr", ""): group for target in targets}
    return held


def reads(module: ast.AST) -> Iterator[tuple[str, str]]:
    """Every attribute that is taken of a group, as (group, attribute)."""
    nodes = list(ast.walk(module))
    held = holders(nodes)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and (group := group_of(node.value, held)):
            yield group, node.attr


CHECKS = {"contradiction"}
"""What only checks options against each other does not act on them; validators have names of their own."""


def through_methods() -> dict[tuple[str, str], set[str]]:
    """For each method and property of a group, the fields that it reads."""
    model = ast.parse(GROUPS_MODULE.read_text())
    found: dict[tuple[str, str], set[str]] = {}
    for kind in ast.walk(model):
        if isinstance(kind, ast.ClassDef) and kind.name in GROUPS:
            for method in kind.body:
                if isinstance(method, ast.FunctionDef) and method.name not in CHECKS:
                    own = {
                        n.attr
                        for n in ast.walk(method)
                        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
                    }
                    found[GROUPS[kind.name], method.name] = own
    return found


@cache
def read_options() -> set[tuple[str, str]]:
    direct = {read for module in sources() for read in reads(module)}
    indirect = {
        (group, name) for (group, prop), names in through_methods().items() if (group, prop) in direct for name in names
    }
    return direct | indirect


@pytest.mark.parametrize("leaf", list(leaves()), ids=lambda leaf: leaf.flag)
def test_an_option_is_read_by_code_that_acts_on_it(leaf: Leaf) -> None:
    assert (leaf.group, leaf.name) in read_options()


def test_an_option_that_nobody_reads_would_be_noticed() -> None:
    module = ast.parse(
        "def f(job, options: Cleanup):\n    taken = job.options.snapshot\n    return taken.keep, options.max_age"
    )
    assert set(reads(module)) >= {("snapshot", "keep"), ("cleanup", "max_age")}
    assert ("snapshot", "invented") not in read_options()
