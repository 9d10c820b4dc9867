"""A budget that runs share is a real limit of a real Prefect server; where it is away, the run goes on and says so."""

import threading
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.errors import UsageError
from hyperexport.flows import export_vm
from hyperexport.jobs.runner import Shared
from hyperexport.options.groups import Bandwidth
from hyperexport.options.precedence import ExportOptions
from hyperexport.simulator import Simulator
from hyperexport.tasks.bandwidth import open_budget, throttle_of
from hyperexport.tasks.runner import PrefectRunner
from hyperexport.transfer.bandwidth.throttle import Throttle
from tests.flows.support import exports_in


@pytest.fixture
def name() -> str:
    return f"link-{uuid4().hex[:8]}"


def make_limit(name: str, *, limit: int, per_second: float) -> None:
    wanted = GlobalConcurrencyLimitCreate(name=name, limit=limit, slot_decay_per_second=per_second)
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(wanted)


def read_limit(name: str):
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(name)


def move(throttle: Throttle, count: int) -> None:
    throttle.take(count, StopSignal())


def test_bytes_come_out_of_the_limit_and_no_slot_is_taken_twice(name: str) -> None:
    make_limit(name, limit=60, per_second=0.001)  # as good as none comes back while the test lasts
    with open_budget(name) as budget:
        assert [budget.acquire() for _ in range(3)] == [0, 0, 0]
    assert budget.grant == 1
    assert read_limit(name).active_slots == 3


def test_a_spent_budget_gives_nothing_and_says_when_to_ask_again(name: str) -> None:
    make_limit(name, limit=2, per_second=0.001)
    with open_budget(name) as budget:
        granted = [budget.acquire() == 0 for _ in range(10)]
        assert budget.acquire() > 1
    assert sum(granted) == read_limit(name).active_slots == 2


def test_the_rate_of_an_existing_limit_holds_and_the_runs_own_stays_below_it(name: str) -> None:
    make_limit(name, limit=4000, per_second=1000)
    with throttle_of(Bandwidth(shared=name)) as throttle:
        move(throttle, MIB)
        assert throttle.rate == 1000 * MIB
    with throttle_of(Bandwidth(shared=name, limit=800)) as throttle:
        move(throttle, MIB)
        assert throttle.rate == 800 * MIB
    assert read_limit(name).slot_decay_per_second == 1000


def test_a_limit_that_is_not_there_is_made_with_the_first_byte_and_not_before(name: str) -> None:
    with throttle_of(Bandwidth(shared=name, limit=500)) as throttle:
        with pytest.raises(ObjectNotFound):
            read_limit(name)
        move(throttle, MIB)
    made = read_limit(name)
    assert made.slot_decay_per_second == 500
    assert made.limit >= 1000


def test_a_limit_that_cannot_be_shared_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(UsageError, match="prefect gcl create"), throttle_of(Bandwidth(shared=name)):
        pass
    make_limit(name, limit=10, per_second=0)
    with pytest.raises(UsageError, match="slot-decay-per-second"), throttle_of(Bandwidth(shared=name)):
        pass


def test_a_server_that_is_away_is_a_warning_and_the_own_limit_holds(name: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        throttle_of(Bandwidth(shared=name, limit=700)) as throttle,
    ):
        move(throttle, 4 * MIB)
        assert throttle.rate == 700 * MIB
        assert len(throttle.warnings) == 1
        assert name in throttle.warnings[0]


def test_the_vms_of_a_fleet_have_one_throttle_together() -> None:
    outer = Throttle(None)
    member = PrefectRunner(shared=Shared(StopSignal(), outer, {}, {}, {}))
    with member.bandwidth(Bandwidth(limit=5)) as inner:
        assert inner is outer
    with PrefectRunner().bandwidth(Bandwidth(limit=5)) as another:
        assert another is not outer
    assert threading.active_count() < 100


def test_an_export_says_what_became_of_its_bandwidth(vcenter: Simulator, store: Path, name: str) -> None:
    keys = {"output": store, "snapshot": True, "bandwidth_limit": 400, "adaptive_bandwidth": True}
    result = export_vm("db01", ExportOptions.from_keys({**keys, "bandwidth_shared": name}))

    (export,) = exports_in(store)
    moved = export.manifest.transfer
    assert moved.shared == name
    assert moved.limit == 400 * MIB
    assert moved.achieved is not None
    assert moved.limit_lowest <= moved.limit_mean <= moved.limit
    assert result.warnings == ()
    assert read_limit(name).slot_decay_per_second == 400
