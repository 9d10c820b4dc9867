"""The Prefect UI as a person uses it: the form, a run's progress, its closing page, and how it is cancelled.

Prefect ships two user interfaces. The first is what its server opens with; the second is asked only what differs.
"""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from hyperexport.blocks import ExportProfile
from hyperexport.simulator import Fault, FaultKind
from tests.flows.service import eventually
from tests.flows.support import exports_in, leftovers
from tests.ui.conftest import Lab

pytestmark = [pytest.mark.ui, pytest.mark.timeout(600)]

GROUPS = ["Destination", "Snapshot", "Incremental", "Bandwidth", "Execution", "Cleanup", "Notifications"]


def field(page: Page, name: str) -> Locator:
    """A field of the first UI's form, with its name, its words and its input."""
    label = page.get_by_text(f"{name} (Optional)", exact=True)
    return page.locator(".schema-form-property", has=label).last


def choose(page: Page, name: str, value: str) -> None:
    """Choose in a list, by the keyboard."""
    field(page, name).locator(".p-select-button__control").last.focus()
    page.keyboard.press("Space")
    page.locator("[class*=option]").get_by_text(value, exact=True).last.click()


def test_a_form_that_nobody_touches_gives_nothing(page: Page, lab: Lab):
    for version in ("", "/v2"):
        page.goto(f"{lab.root}{version}{lab.form}")
        page.get_by_text("The VM's name or its whole inventory path").wait_for()
        page.locator("textarea").first.fill("db01")
        # Only what is sent is looked at; no run is made.
        page.route("**/create_flow_run", lambda route: route.abort())
        with page.expect_request("**/create_flow_run") as sent:
            page.get_by_role("button", name="Submit").click()
        parameters = sent.value.post_data_json["parameters"]
        assert parameters == {"vm": "db01", "options": {}, "vsphere": None, "profile": None}, version or "/v1"


def test_the_form_has_its_groups_in_order_with_words_lists_and_bounds(page: Page, lab: Lab):
    page.goto(f"{lab.root}/v2{lab.form}")
    page.get_by_text("What to do, and how.").wait_for()
    text = page.locator("body").inner_text()
    names = ["VM", "vSphere credentials", "Export profile", "Options", *GROUPS]
    places = [text.index(f"\n{name}" + ("\n" if name == "VM" else " (Optional)")) for name in names]
    assert places == sorted(places)
    assert "Several VMs" not in text
    assert "Disks to transfer in parallel. Default: 4." in text
    limit = page.get_by_label("Limit (Optional)")
    for value, fits in (("20", True), ("200000", False), ("-1", False)):
        limit.fill(value)
        assert limit.evaluate("input => input.validity.valid") is fits, value
    for name, choices in (("Verify", ["off", "on", "deep"]), ("Take a snapshot", ["true", "false"])):
        page.get_by_label(f"Select {name}", exact=True).click()
        expect(page.get_by_role("option")).to_have_text(choices)
        page.keyboard.press("Escape")


def test_a_run_from_the_form_to_its_closing_page(page: Page, lab: Lab, picture):
    page.goto(lab.root + lab.form)
    page.get_by_text("The VM's name or its whole inventory path").wait_for()
    page.locator("textarea").first.fill("db01")
    page.get_by_role("button", name="VSphereCredentials").click()
    choose(page, "vSphere credentials", "lab")
    page.get_by_role("button", name="ExportProfile").click()
    choose(page, "Export profile", "nightly")
    choose(page, "Verify", "on")
    field(page, "Limit").locator("input").fill("1")
    field(page, "Burst").locator("input").fill("0.1")
    page.locator("textarea").first.scroll_into_view_if_needed()
    picture("ui-form")
    content = page.content()
    with page.expect_response("**/create_flow_run") as answered:
        page.get_by_role("button", name="Submit").click()
    assert answered.value.ok, answered.value.text()
    sent = answered.value.request.post_data_json["parameters"]
    assert sent["options"] == {"bandwidth": {"limit": 1, "burst": 0.1}, "execution": {"verify": "on"}}
    assert [list(sent[name]) for name in ("vsphere", "profile")] == [["$ref"], ["$ref"]]

    run = answered.value.json()["id"]
    eventually(lambda: lab.state_of(run) in {"COMPLETED", "FAILED", "CRASHED"}, "the run's end")
    assert lab.state_of(run) == "COMPLETED"
    (export,) = exports_in(lab.store)  # where the profile says
    assert export.manifest.snapshot
    page.goto(f"{lab.root}/runs/flow-run/{run}")
    page.get_by_text("made snapshot").first.wait_for()
    picture("ui-run")
    content += page.content()

    (closing,) = lab.artifacts_of(run, "markdown")
    page.goto(f"{lab.root}/artifacts/artifact/{closing['id']}")
    page.get_by_role("heading", name=re.compile("Exported .*db01 in ")).wait_for()
    chart = page.get_by_alt_text("Throughput of each file over time")
    chart.wait_for()
    assert chart.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.set_viewport_size({"width": 1100, "height": 1400})
    picture("ui-closing")
    content += page.content()
    for words in (
        "yes, read back and proved",
        "--incremental was not asked for",
        "db01-disk-0.vmdk",
    ):
        expect(page.get_by_text(words).first).to_be_visible()
    assert lab.service.simulator.password not in content


def test_the_short_form_exports_a_vm_with_what_the_profile_says(page: Page, lab: Lab, picture):
    deployment = lab.ask("/deployments/name/quick-export/quick-export")["id"]
    page.goto(f"{lab.root}/deployments/deployment/{deployment}/run")
    page.get_by_text("The VM's name or its whole inventory path").wait_for()
    assert page.locator(".schema-form-property").count() < 12
    page.locator("textarea").first.fill("db01")
    page.get_by_role("button", name="ExportProfile").click()
    choose(page, "Export profile", "nightly")
    choose(page, "Dry run", "true")
    page.set_viewport_size({"width": 1100, "height": 1330})
    page.locator("textarea").first.scroll_into_view_if_needed()
    picture("ui-quick")
    with page.expect_response("**/create_flow_run") as answered:
        page.get_by_role("button", name="Submit").click()
    assert answered.value.ok, answered.value.text()
    assert answered.value.request.post_data_json["parameters"]["options"] == {"dry_run": True}
    run = answered.value.json()["id"]
    eventually(lambda: lab.state_of(run) in {"COMPLETED", "FAILED", "CRASHED"}, "the run's end")
    assert lab.state_of(run) == "COMPLETED"
    (plan,) = lab.artifacts_of(run, "markdown")
    assert re.search("# Would export .*/db01: full, ", plan["data"])
    assert str(lab.store) in plan["data"], "where the profile says"


@pytest.mark.parametrize("version", ["", "/v2"])
def test_a_profile_is_made_in_the_form_of_its_block_with_groups(page: Page, lab: Lab, version: str):
    name = f"made{version.strip('/')}"
    page.goto(f"{lab.root}{version}/blocks/catalog/export-profile/create")
    page.get_by_text("Take a snapshot").first.wait_for()
    page.locator("input").first.fill(name)
    if version:
        page.get_by_label("Select Take a snapshot", exact=True).click()
        page.get_by_role("option", name="yes").click()
    else:
        label = page.locator(".p-label", has=page.get_by_text("Take a snapshot", exact=False)).last
        label.locator(".p-select-button__control").last.focus()
        page.keyboard.press("Space")
        page.locator("[class*=option]").get_by_text("yes", exact=True).last.click()
    with page.expect_response("**/block_documents/") as answered:
        page.get_by_role("button", name="Save" if version else "Create").last.click()
    assert answered.value.ok, answered.value.text()
    saved = lab.ask(f"/block_types/slug/export-profile/block_documents/name/{name}")["data"]
    assert ExportProfile.model_validate(saved).get_options() == {"snapshot": True}


@pytest.mark.sample("/v2")
@pytest.mark.parametrize("version", ["", "/v2"])
def test_the_blocks_have_their_logos_without_internet(page: Page, lab: Lab, version: str):
    page.route(lambda address: not address.startswith(lab.root), lambda route: route.abort())
    page.goto(f"{lab.root}{version}/blocks")
    page.get_by_text("nightly").first.wait_for()
    shown = "[...document.images].filter(image => image.src.includes('logos') && image.naturalWidth > 0).length >= 2"
    page.wait_for_function(f"() => {shown}")


@pytest.mark.matrix  # tests/flows/test_retries.py proves it without a browser
def test_one_click_on_retry_exports_only_what_failed_in_a_fleet(page: Page, lab: Lab):
    lab.service.simulator.faults.add(Fault(FaultKind.QUIESCE_FAILED, times=1, vm="db01"))
    deployment = lab.ask("/deployments/name/export-fleet/export-fleet")["id"]
    store = lab.store.parent / "fleet"
    options = {"snapshot": {"take": True, "quiesce_required": True}, "destination": {"output": str(store)}}
    parameters = {"selection": {"vm": ["db01", "big"]}, "options": options}
    run = lab.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
    eventually(lambda: lab.state_of(run) in {"COMPLETED", "FAILED", "CRASHED"}, "the run's end")
    assert lab.state_of(run) == "FAILED"
    assert [export.manifest.vm.name for export in exports_in(store)] == ["big"]

    page.goto(f"{lab.root}/runs/flow-run/{run}")
    page.get_by_role("button", name="Retry").first.click()
    page.get_by_role("button", name="Retry").last.click()

    eventually(lambda: lab.state_of(run) == "COMPLETED", "the end of the retry")
    assert sorted(export.manifest.vm.name for export in exports_in(store)) == ["big", "db01"]


def test_a_run_that_is_cancelled_in_the_ui_cleans_up_behind_itself(page: Page, lab: Lab, picture):
    deployment = lab.form.split("/")[-2]
    parameters = {"vm": "big", "profile": "nightly", "options": {"bandwidth": {"limit": 1}}}
    run = lab.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]

    def of_the_disk() -> list[dict[str, Any]]:
        return [one for one in lab.artifacts_of(run, "progress") if ".vmdk" in one["description"]]

    progress = eventually(of_the_disk, "progress of the disk")[0]
    page.goto(f"{lab.root}/artifacts/artifact/{progress['id']}")
    seen = page.get_by_text("transferred").first.inner_text()
    told = of_the_disk()[0]["description"]
    eventually(lambda: of_the_disk()[0]["description"] != told, "progress that moves")
    page.reload()
    expect(page.get_by_text("transferred").first).not_to_have_text(seen, timeout=90_000)
    picture("ui-progress")
    assert [vm.name for vm in lab.service.simulator.vms() if vm.snapshots()] == ["big"]

    page.goto(f"{lab.root}/runs/flow-run/{run}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Confirm").click()
    eventually(lambda: lab.state_of(run) == "CANCELLED", "the run's end")
    page.get_by_text("Cancelled", exact=True).first.wait_for()
    picture("ui-cancelled")
    assert leftovers(lab.service.simulator, lab.store) == []
    assert "big" not in {export.manifest.vm.name for export in exports_in(lab.store)}
