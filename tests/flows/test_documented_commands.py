"""Every documented command line, run as written, has the effect that its comment promises.

The lines are data (``tests/data/documented_commands.txt``). What stands for the outside world is named once, in
``OUTSIDE``: the mail server, the jobs API's port. Everything else (the vCenter, the S3 server, the store's folder) is
given by the environment. The table ``PROMISES`` says what each line is checked for.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.cli.main import run
from hyperexport.model.manifest import ExportKind, ExportManifest, Quiescing, new_export_id
from hyperexport.model.ownership import Owner
from hyperexport.simulator import DiskSpec, Simulator, VmSpec
from hyperexport.store.base import StoredExport
from hyperexport.store.local import LocalStore
from hyperexport.store.s3 import S3Location, S3Settings, S3Store
from tests.engine.local_exports import forge
from tests.engine.s3_servers import S3Server, rclone_s3
from tests.flows.smtp_server import Postbox, smtp_server
from tests.flows.support import changed, exported_bytes, exports_in, guest_bytes

LINES = [
    line
    for line in (Path(__file__).parents[1] / "data" / "documented_commands.txt").read_text().splitlines()
    if line and not line.startswith("#")
]

VMS = (
    VmSpec("MyVM", folder="production", powered_on=False, disks=(DiskSpec(2 * MIB), DiskSpec(MIB))),
    VmSpec("ProductionDB", disks=(DiskSpec(2 * MIB), DiskSpec(MIB))),
    VmSpec("LegacyApp", disks=(DiskSpec(2 * MIB),)),
    VmSpec("FileServer", disks=(DiskSpec(2 * MIB),)),
)


@dataclass
class World:
    """What the lines are run in, and what they are checked against."""

    vcenter: Simulator
    store: Path
    s3: S3Server
    mail: Postbox
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    ran: list[str] = field(default_factory=list)

    def run(self, line: str) -> None:
        """Run a line as a shell would, in this process where it needs no shell."""
        self.ran.append(line)
        line = line.replace("smtp.gmail.com", "localhost").replace(
            " --email-smtp-port 587", f" --email-smtp-port {self.mail.port}"
        )
        if re.search(r"[|$]", line):
            self._by_a_shell(line)
            return
        self.capsys.readouterr()
        code = run(shlex.split(line, comments=True)[1:])
        told = self.capsys.readouterr()
        assert code == 0, told.err
        self.out = told.out

    def _by_a_shell(self, line: str) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        api = str(get_current_settings().api.url)
        shell = ["bash", "-o", "pipefail", "-c", line]
        done = subprocess.run(
            shell, env={**os.environ, "PATH": path, "PREFECT_API_URL": api}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        self.out = done.stdout

    def exports(self) -> list[StoredExport]:
        return exports_in(self.store)

    def newest(self) -> ExportManifest:
        return self.exports()[0].manifest

    def names_of_snapshots(self, vm: str) -> list[str]:
        return [name for _, name, _, _ in self.vcenter.vm(vm).snapshots()]

    def bucket(self, url: str) -> S3Store:
        return S3Store(S3Location.parse(url), S3Settings(endpoint_url=self.s3.endpoint_url), stop=StopSignal())

    def proves(self, vm: str) -> None:
        """The newest export holds what the guest holds."""
        assert exported_bytes(LocalStore(self.store), self.exports()[0]) == guest_bytes(self.vcenter, vm)

    def grow_old(self, *ages: timedelta) -> None:
        """Have exports of MyVM of these ages: one is made, and the others are made out of it."""
        self.run("hyperexport --vm MyVM --no-prefect")
        local = LocalStore(self.store)
        (made,) = local.exports()
        for age in ages:
            then = datetime.now(UTC) - age
            copy = made.manifest.model_copy(
                update={
                    "export_id": new_export_id(then),
                    "started": then,
                    "finished": then,
                    "server_time": then if made.manifest.server_time else None,
                    "run": str(uuid4()),
                }
            )
            owner = Owner.of_this_process(run=copy.run, vcenter=copy.vcenter, vm=copy.vm.instance_uuid)
            with local.stage(made.folder, copy.export_id, owner) as staging:
                for entry in copy.files:
                    assert staging.reuse(made, entry, entry.name)
                staging.publish(copy)
        local.delete(made)


def power_on(world: World) -> None:
    world.vcenter.vm("MyVM").power_on()


def nothing(world: World) -> None:
    """The line needs nothing to be there before."""


def exported_before(world: World) -> None:
    world.run("hyperexport --vm MyVM --incremental --no-prefect")
    world.vcenter.vm("MyVM").guest_write(1, 0, b"changed since")


def uploaded_before(world: World) -> None:
    world.run("hyperexport --vm MyVM --incremental --upload s3://my-bucket/backups --no-prefect")
    world.vcenter.vm("MyVM").guest_write(1, 0, b"changed since")


def old_exports(world: World) -> None:
    world.grow_old(timedelta(days=45), timedelta(days=31), timedelta(days=2), timedelta(hours=1))


def three_exports_of_sixty_gigabytes(world: World) -> None:
    world.grow_old(*(timedelta(days=day) for day in (3, 2, 1)))
    local = LocalStore(world.store)
    for export in local.exports():  # only the manifests say so: nobody has a test disk of that size
        first, *others = export.manifest.files
        large = first.model_copy(update={"size": 60 << 30, "written_as": None, "sha256": token_hex(32)})
        forge(local, export, files=(large, *others))


def eleven_exports(world: World) -> None:
    world.grow_old(*(timedelta(days=day) for day in range(12, 1, -1)))


def five_kept_snapshots(world: World) -> None:
    power_on(world)
    world.vcenter.vm("MyVM").take_snapshot("by hand")
    for _ in range(5):
        world.run('hyperexport --vm "MyVM" --snapshot --keep-snapshots 5 --no-prefect')


def a_users_snapshots(world: World) -> None:
    world.vcenter.vm("MyVM").take_snapshot("by hand")
    world.vcenter.vm("MyVM").take_snapshot("by hand too")


def saved_profile(world: World) -> None:
    world.run(
        'hyperexport --save-profile "production-backup" --snapshot --incremental --bandwidth-limit 20 --email-notify --cleanup'  # noqa: E501
    )
    power_on(world)


def shows_the_vm(world: World) -> None:
    assert "┌" in world.out
    assert "/DC0/vm/production/MyVM" in world.out
    assert world.exports() == []


def shows_exactly_the_keys(world: World) -> None:
    keys = [line.partition("=")[0] for line in world.out.splitlines()]
    assert keys == ["name", "path", "power_state", "guest_os", "cpu", "memory_mb", "storage_bytes"]


def finds_the_power_state(world: World) -> None:
    assert "poweredOff" in world.out


def exported_from_a_snapshot_that_is_gone(world: World) -> None:
    assert world.newest().snapshot.quiescing is Quiescing.FILESYSTEM
    assert world.names_of_snapshots("MyVM") == []
    world.proves("MyVM")


def snapshot_bore_the_name(world: World) -> None:
    assert world.newest().snapshot.name == "pre-migration-backup"


def snapshot_had_the_memory(world: World) -> None:
    assert world.newest().snapshot.quiescing is Quiescing.MEMORY


def five_of_ours_are_kept(world: World) -> None:
    names = world.names_of_snapshots("MyVM")
    assert names[0] == "by hand"
    assert len(names) == 6
    assert world.newest().snapshot.name == names[-1]


def no_snapshot_is_left(world: World) -> None:
    assert world.names_of_snapshots("MyVM") == []
    world.proves("MyVM")


def limited_to(rate: float) -> Callable[[World], None]:
    def check(world: World) -> None:
        assert world.newest().transfer.limit == rate * MIB
        world.proves("MyVM")

    return check


def limited_with_a_burst(world: World) -> None:
    limited_to(5)(world)
    assert world.newest().options["bandwidth_burst"] == 20


def adapted(world: World) -> None:
    assert world.newest().options["adaptive_bandwidth"] is True
    world.proves("MyVM")


def limited_and_uploaded(world: World) -> None:
    limited_to(10)(world)
    (there,) = world.bucket("s3://my-bucket/backups").exports()
    assert exported_bytes(world.bucket("s3://my-bucket/backups"), there) == guest_bytes(world.vcenter, "MyVM")


def one_disk_was_transferred(world: World) -> None:
    assert changed(world.newest()) == {"Hard disk 1": False, "Hard disk 2": True}
    world.proves("MyVM")


def told_what_would_be_transferred(world: World) -> None:
    assert "Hard disk 1" in world.out
    assert "unchanged" in world.out
    assert len(world.exports()) == 1


def exported_in_full(world: World) -> None:
    assert world.newest().kind is ExportKind.FULL
    assert set(changed(world.newest()).values()) == {True}


def one_disk_was_uploaded(world: World) -> None:
    newest, oldest = world.bucket("s3://my-bucket/backups").exports()
    assert [entry.stored_in for entry in newest.manifest.disks] == [oldest.export_id, None]
    assert exported_bytes(world.bucket("s3://my-bucket/backups"), newest) == guest_bytes(world.vcenter, "MyVM")


def mailed_with_a_login(world: World) -> None:
    message = world.mail.only()
    assert "export@example.com" in str(message["From"])
    assert world.mail.users == ["export@example.com"]
    assert "MyVM" in str(message["Subject"])


def mailed_nothing_of_a_success(world: World) -> None:
    assert world.mail.messages == []
    world.vcenter.vm("MyVM").power_on()  # now the export fails: it was not asked for a snapshot
    assert run(shlex.split(world.ran[-1].replace("smtp.gmail.com", "localhost"))[1:]) != 0
    assert "MyVM" in str(world.mail.only()["Subject"])


def mailed_three_people(world: World) -> None:
    assert world.mail.recipients == [["admin@example.com", "backup@example.com", "ops@example.com"]]


def kept(count: int) -> Callable[[World], None]:
    def check(world: World) -> None:
        assert len(world.exports()) == count

    return check


def deletes_what_it_would_delete(world: World) -> None:
    assert len(world.exports()) == 4
    assert world.out.count("would delete") == 2


def cleans_up_every_day(world: World) -> None:
    (schedule,) = schedules_of("cleanup-exports")
    assert schedule.interval == timedelta(hours=24)


def backed_up_completely(world: World) -> None:
    manifest = world.newest()
    assert manifest.vm.name == "ProductionDB"
    assert manifest.snapshot is not None
    assert manifest.transfer.limit == 20 * MIB
    assert world.names_of_snapshots("ProductionDB") == []
    assert len(world.bucket("s3://prod-backups/databases").exports()) == 1
    assert world.mail.recipients == [["ops@company.com"]]
    world.proves("ProductionDB")


def migrated_safely(world: World) -> None:
    manifest = world.newest()
    assert manifest.snapshot.name == f"pre-migration-{datetime.now().astimezone():%Y%m%d}"
    assert manifest.verified is not None
    assert manifest.transfer.limit == 10 * MIB
    assert world.mail.recipients == [["migration-team@company.com"]]
    world.proves("LegacyApp")


def backs_up_every_night(world: World) -> None:
    (nightly,) = schedules_of("export-vm")
    assert nightly.cron == "0 2 * * *"
    (daily,) = schedules_of("cleanup-exports")
    assert daily.interval == timedelta(hours=24)


def saved_and_exported_nothing(world: World) -> None:
    assert world.exports() == []
    world.run("hyperexport --list-profiles")
    assert "production-backup" in world.out


def exported_as_the_profile_says(world: World) -> None:
    manifest = world.newest()
    assert manifest.snapshot is not None
    assert manifest.transfer.limit == 20 * MIB
    assert len(world.mail.messages) == 1
    world.proves("MyVM")


@dataclass(frozen=True)
class Promise:
    """One line of the documentation: what is there before, and what holds after."""

    line: str
    before: Callable[[World], None]
    after: Callable[[World], None]
    prefect: bool = False
    """Whether it is run in Prefect, as one line of each kind is and what needs a server; the others run directly."""


PROMISES = [
    Promise('hyperexport --vm-info --vm "MyVM"', nothing, shows_the_vm),
    Promise('hyperexport --vm-info --vm "MyVM" --quiet', nothing, shows_exactly_the_keys),
    Promise('hyperexport --vm-info --vm "MyVM" | grep "poweredOff"', nothing, finds_the_power_state),
    Promise('hyperexport --vm "MyVM" --snapshot --delete-snapshot', power_on, exported_from_a_snapshot_that_is_gone),
    Promise(
        'hyperexport --vm "MyVM" --snapshot --snapshot-name "pre-migration-backup"',
        power_on,
        snapshot_bore_the_name,
    ),
    Promise('hyperexport --vm "MyVM" --snapshot --snapshot-memory', power_on, snapshot_had_the_memory),
    Promise(
        'hyperexport --vm "MyVM" --snapshot --keep-snapshots 5',
        five_kept_snapshots,
        five_of_ours_are_kept,
        prefect=True,
    ),
    Promise('hyperexport --vm "MyVM" --consolidate-snapshots', a_users_snapshots, no_snapshot_is_left),
    Promise('hyperexport --vm "MyVM" --bandwidth-limit 10', nothing, limited_to(10)),
    Promise('hyperexport --vm "MyVM" --bandwidth-limit 5 --bandwidth-burst 20', nothing, limited_with_a_burst),
    Promise('hyperexport --vm "MyVM" --adaptive-bandwidth', nothing, adapted),
    Promise(
        'hyperexport --vm "MyVM" --bandwidth-limit 10 --upload s3://my-bucket/backups',
        nothing,
        limited_and_uploaded,
    ),
    Promise('hyperexport --vm "MyVM" --incremental', exported_before, one_disk_was_transferred),
    Promise(
        'hyperexport --vm "MyVM" --incremental-info', exported_before, told_what_would_be_transferred, prefect=True
    ),
    Promise('hyperexport --vm "MyVM" --force-full', exported_before, exported_in_full),
    Promise(
        'hyperexport --vm "MyVM" --incremental --upload s3://my-bucket/backups',
        uploaded_before,
        one_disk_was_uploaded,
    ),
    Promise(
        'hyperexport --vm "MyVM" --email-notify --email-smtp-host smtp.gmail.com --email-smtp-port 587 --email-from export@example.com --email-to admin@example.com --email-username export@example.com --email-password "your-password"',  # noqa: E501
        nothing,
        mailed_with_a_login,
    ),
    Promise(
        'hyperexport --vm "MyVM" --email-notify --email-on-start=false --email-on-complete=false --email-on-failure=true --email-smtp-host smtp.gmail.com --email-from export@example.com --email-to admin@example.com',  # noqa: E501
        nothing,
        mailed_nothing_of_a_success,
        prefect=True,
    ),
    Promise(
        'hyperexport --vm "MyVM" --email-notify --email-to "admin@example.com,backup@example.com,ops@example.com"',
        nothing,
        mailed_three_people,
    ),
    Promise("hyperexport --cleanup --cleanup-max-age 720h  # 30 days", old_exports, kept(2)),
    Promise("hyperexport --cleanup --cleanup-max-count 10", eleven_exports, kept(10)),
    Promise("hyperexport --cleanup --cleanup-max-size 107374182400", three_exports_of_sixty_gigabytes, kept(1)),
    Promise(
        "hyperexport --cleanup --cleanup-dry-run --cleanup-max-age 720h",
        old_exports,
        deletes_what_it_would_delete,
        prefect=True,
    ),
    Promise("hyperexport --cleanup-schedule 24h", nothing, cleans_up_every_day, prefect=True),
    Promise("hyperexport --cleanup --cleanup-max-age 720h --cleanup-max-count 20", old_exports, kept(2)),
    Promise(
        'hyperexport --vm "ProductionDB" --snapshot --delete-snapshot --incremental --bandwidth-limit 20 --email-notify --email-smtp-host smtp.gmail.com --email-from backups@company.com --email-to ops@company.com --upload s3://prod-backups/databases --cleanup --cleanup-max-age 720h --cleanup-max-count 30',  # noqa: E501
        nothing,
        backed_up_completely,
        prefect=True,
    ),
    Promise(
        'hyperexport --vm "LegacyApp" --snapshot --snapshot-name "pre-migration-$(date +%Y%m%d)" --bandwidth-limit 10 --adaptive-bandwidth --email-notify --email-to migration-team@company.com --verify',  # noqa: E501
        nothing,
        migrated_safely,
    ),
    Promise(
        'hyperexport --vm "FileServer" --daemon-schedule "daily-backup:0 2 * * *" --snapshot --incremental --upload s3://daily-backups --cleanup-schedule 24h --cleanup-max-count 7',  # noqa: E501
        nothing,
        backs_up_every_night,
        prefect=True,
    ),
    Promise(
        'hyperexport --save-profile "production-backup" --snapshot --incremental --bandwidth-limit 20 --email-notify --cleanup',  # noqa: E501
        nothing,
        saved_and_exported_nothing,
        prefect=True,
    ),
    Promise(
        'hyperexport --profile "production-backup" --vm "MyVM"',
        saved_profile,
        exported_as_the_profile_says,
        prefect=True,
    ),
]
"""The thirty lines of the command line; the thirty-first, for the jobs API, has a test of its own below."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    s3: S3Server,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Generator[World]:
    promise: Promise = request.node.callspec.params["promise"]
    line = promise.line
    login = ("export@example.com", "your-password") if "--email-password" in line else None
    with Simulator(VMS) as vcenter, smtp_server(tmp_path, tls="starttls", login=login) as mail:
        authorities = tmp_path / "authorities.pem"
        authorities.write_text(s3.ca_file.read_text() + mail.ca_file.read_text())
        outside = {
            **vcenter.environment(),
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_CA_BUNDLE": str(authorities),
            "SSL_CERT_FILE": str(mail.ca_file),
            "HYPEREXPORT_S3_ENDPOINT": s3.endpoint_url,
            "HYPEREXPORT_OUTPUT": str(store),
            "HYPEREXPORT_SMTP_HOST": "localhost",
            "HYPEREXPORT_SMTP_PORT": str(mail.port),
            "HYPEREXPORT_EMAIL_FROM": "export@example.com",
            "HYPEREXPORT_EMAIL_TO": "ops@example.com",
            "HYPEREXPORT_NO_PREFECT": "" if promise.prefect else "true",
        }
        for name, value in outside.items():
            monkeypatch.setenv(name, value)
        for bucket in ("my-bucket", "prod-backups", "daily-backups"):
            _empty(s3, bucket)
        if promise.prefect:
            _remove_deployments()
        yield World(vcenter, store, s3, mail, capsys)


def _empty(s3: S3Server, bucket: str) -> None:
    client = s3.client()
    if bucket not in {each["Name"] for each in client.list_buckets()["Buckets"]}:
        s3.make_bucket(bucket)
    for each in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=each["Key"])


def _remove_deployments() -> None:
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)


def schedules_of(flow: str) -> list:
    """The schedules of a flow's deployments, as the Prefect server keeps them."""
    with get_client(sync_client=True) as client:
        flows = {each.id: each.name for each in client.read_flows()}
        found = [each for each in client.read_deployments() if flows[each.flow_id] == flow]
        return [each.schedule for deployment in found for each in deployment.schedules]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.line)
def test_a_documented_command_line_does_what_it_promises(world: World, promise: Promise) -> None:
    promise.before(world)
    world.run(promise.line)
    promise.after(world)


def test_the_table_has_every_documented_line_once() -> None:
    assert [promise.line for promise in PROMISES] == LINES[:-1]
    assert LINES[-1].startswith("curl ")
