"""A run shows its own progress, and nobody else's."""

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.runtime import flow_run

from hyperexport.flows import inventory
from hyperexport.model.progress import Progress, Stage, report
from hyperexport.model.vm import VmRef
from hyperexport.tasks.artifacts import progress_artifacts, rate_and_time_left
from tests.examples import VM

OF_THE_SAME_NAME = VM.model_copy(update={"moref": "vm-7", "path": "/DC0/vm/test/db01"})


def artifacts_of(run) -> list[tuple[str | None, object, str | None]]:
    with get_client(sync_client=True) as client:
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        found = client.read_artifacts(artifact_filter=only)
    return [(artifact.key, artifact.data, artifact.description) for artifact in found]


def test_vms_that_are_exported_in_one_process_do_not_show_each_others_disks():
    @flow(persist_result=False)
    def showing(vm: VmRef | None) -> str:
        with progress_artifacts(vm):
            for one in (VM, OF_THE_SAME_NAME):
                report(Progress(one, "db01-disk-0.vmdk", Stage.TRANSFER, 512, 1024, int(one.moref[3:])))
        return str(flow_run.id)

    assert artifacts_of(showing(VM)) == [
        ("progress-db01-db01-disk-0-vmdk", 50.0, "db01-disk-0.vmdk: 512 B of 1.0 KB, 42 B transferred")
    ]
    assert len(artifacts_of(showing(None))) == 2


@pytest.mark.parametrize(
    ("first", "now", "words"),
    [
        ((0, 0), (256, 100), ", 10 B/s, 30.0 s left"),
        ((512, 100), (768, 200), ", 10 B/s, 10.0 s left"),
        ((0, 0), (512, 0), ", 10.0 s left"),
        ((0, 0), (0, 0), ""),
    ],
)
def test_progress_says_how_fast_it_goes_and_how_long_it_will_take(first, now, words):
    def report_of(at: tuple[int, int]) -> Progress:
        return Progress(VM, "db01-disk-0.vmdk", Stage.TRANSFER, at[0], 1024, at[1])

    assert rate_and_time_left(report_of(first), report_of(now), 10.0) == words


def test_the_inventory_lists_every_vm_by_name_in_an_artifact_that_keeps_its_place(vcenter):
    for _ in range(2):
        assert [vm.name for vm in inventory()] == ["db01"]
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["inventory-127-0-0-1"]))
        )
    assert len(found) == 2, "one version for each run, under one key"
    assert "| db01 | /DC0/vm/db01 | poweredOn |" in found[0].data
