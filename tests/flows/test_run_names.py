"""What runs and deployments are called."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.utilities.names import generate_slug

from hyperexport import flows
from hyperexport.deployments.definitions import offered_flows, on_demand_deployments
from hyperexport.simulator import Simulator
from hyperexport.workarounds.made_up_names import is_made_up

GIVEN: dict[str, dict[str, Any]] = {
    "vm_info": {"selection": {"vm": ["db01"]}},
    "verify_exports": {"exports": None},
    "check_setup": {"selection": {"vm": ["db01"]}},
}


def name_of_run(flow: str, parameters: dict[str, Any], name: str | None = None) -> str:
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(getattr(flows, flow), parameters=parameters, name=name)
        run_flow(getattr(flows, flow), flow_run=run, parameters=parameters, return_type="state")
        return client.read_flow_run(run.id).name


@pytest.mark.parametrize(
    ("flow", "name"),
    [("vm_info", "show --vm db01"), ("verify_exports", "verify all exports"), ("check_setup", "check --vm db01")],
)
def test_a_run_is_named_by_what_it_does(flow: str, name: str, vcenter: Simulator, store: Path) -> None:
    options = {} if flow == "vm_info" else {"options": {"destination": {"output": str(store)}}}
    assert name_of_run(flow, {**GIVEN[flow], **options}) == name


def test_a_name_that_was_given_by_hand_stays(vcenter: Simulator) -> None:
    assert name_of_run("vm_info", GIVEN["vm_info"], "before-upgrade") == "before-upgrade"


def test_only_names_that_prefect_makes_up_count_as_made_up() -> None:
    assert all(is_made_up(generate_slug(2)) for _ in range(200))
    for name in (
        "export db01",
        "before-upgrade",
        "nightly-fleet",
        "db01",
        "falcon",
        "deltas-of-db01",
        "Small-VMs-only",
    ):
        assert not is_made_up(name)


def test_the_names_that_prefects_forms_make_up_count_as_made_up() -> None:
    pages = Path(prefect.__file__).parent / "server"
    (first,) = [text for page in pages.glob("ui/assets/*.js") if "upsilon4." in (text := page.read_text())]
    lists = [words.split(".") for words in re.findall(r"`([\w.-]{150,})`\.split", first)]
    greek, stars, ends = (next(one for one in lists if word in one) for word in ("upsilon4", "thuban", "terminus"))
    made = {f"{one.replace('RANDOM', '907')}-{star}".rstrip("-") for one in greek for star in stars}
    made |= {f"alpha-{star}-{end}" for star in stars for end in ends}
    assert [name for name in made if "-" in name and not is_made_up(name)] == []
    (second,) = [text for page in pages.glob("ui-v2/assets/*.js") if "`Handcrafted`" in (text := page.read_text())]
    adjectives = re.findall(r"`([A-Z][a-z]+)`", re.findall(r"\[((?:`\w+`,?)*`Handcrafted`(?:,`\w+`)*)\]", second)[0])
    assert len(adjectives) > 10
    assert all(is_made_up(f"{word}-Gar") for word in adjectives)


def test_every_flow_names_its_runs_and_describes_itself_without_words_for_programmers() -> None:
    assert all(flow.flow_run_name for flow in offered_flows())
    names = Counter(deployment.name for deployment in on_demand_deployments())
    assert set(names.values()) == {1}, "a deployment's name says in every list which one it is"
    assert {deployment.flow_name for deployment in on_demand_deployments()} == set(names) - {"restore-from-list"}
    for deployment in on_demand_deployments():
        assert deployment.description
        assert not {"Args:", "Returns:", "Raises:"} & set(deployment.description.split())
