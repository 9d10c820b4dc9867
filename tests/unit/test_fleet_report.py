"""The command that does again what failed means the same as the run that it repeats."""

import shlex

from hyperexport.cli.arguments import parse
from hyperexport.cli.export import Export
from hyperexport.model.vm import VmRef
from hyperexport.options.precedence import ExportOptions
from hyperexport.results import FleetMember, FleetOutcome, FleetResult
from hyperexport.views.fleet import mail_rows, redo_command


def member(name: str, outcome: FleetOutcome = FleetOutcome.FAILED) -> FleetMember:
    ref = VmRef(moref="vm-1", name=name, path=f"/DC0/vm/{name}", instance_uuid="")
    return FleetMember(vm=ref, outcome=outcome, message="so", seconds=1.5)


def test_the_command_to_do_it_again_is_understood_as_the_same_options() -> None:
    options = ExportOptions.from_keys(
        {
            "snapshot": True,
            "delete_snapshot": False,
            "output": "/srv/my exports",
            "format": "ova",
            "verify": "deep",
            "full_after": "36h",
            "bandwidth_limit": 2.5,
            "cleanup_preserve": ("a*", "b*"),
            "keep_snapshots": 3,
        }
    )
    command = redo_command([member("db 01"), member("it's")], options, vsphere="prod", profile="nightly")
    request = parse(shlex.split(command)[1:])
    assert isinstance(request, Export)
    assert request.vms == ("/DC0/vm/db 01", "/DC0/vm/it's")
    assert (request.vsphere, request.profile) == ("prod", "nightly")
    assert request.options.given_keys() == options.given_keys()


def test_vms_that_were_stopped_are_told_as_failed() -> None:
    assert [row.outcome for row in mail_rows([member("a", FleetOutcome.STOPPED), member("b")])] == ["failed"] * 2


def test_a_fleet_says_how_many_fared_how() -> None:
    outcomes = (FleetOutcome.EXPORTED, FleetOutcome.EXPORTED, FleetOutcome.FAILED)
    result = FleetResult(dry_run=False, members=tuple(member("a", one) for one in outcomes), seconds=1)
    assert result.summary == "3 VMs: 2 exported, 1 failed"
    assert len(result.failed) == 1
