"""A run shows its own progress, and nobody else's."""

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.runtime import flow_run

from hyperexport.progress import Progress, Stage, report
from tasks.artifacts import progress_artifacts


def artifacts_of(run) -> dict[str, tuple[float, str]]:
    with get_client(sync_client=True) as client:
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        found = client.read_artifacts(artifact_filter=only)
    return {artifact.key: (artifact.data, artifact.description) for artifact in found}


def test_vms_that_are_exported_in_one_process_do_not_show_each_others_disks():
    @flow(persist_result=False)
    def showing(vm: str | None) -> str:
        with progress_artifacts(vm):
            for name in ("db01", "web-1"):
                report(Progress(name, f"{name}-disk-0.vmdk", Stage.TRANSFER, 512, 1024, 100))
        return str(flow_run.id)

    assert artifacts_of(showing("db01")) == {
        "progress-db01-db01-disk-0-vmdk": (50.0, "db01-disk-0.vmdk: 512 B of 1.0 KB, 100 B transferred")
    }
    assert len(artifacts_of(showing(None))) == 2
