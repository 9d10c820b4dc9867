"""What our flow exports, VMware's own tools import: the OVA and the OVF folder, by govc into vcsim."""

import json

import pytest

from hyperexport.flows import export_vm
from hyperexport.options.precedence import ExportOptions
from tests.flows.support import exports_in


@pytest.mark.conformance
@pytest.mark.parametrize("form", ["ova", "ovf"])
def test_govc_imports_what_the_flow_exports(vcenter, vcsim, store, form):
    export_vm("db01", ExportOptions.from_keys({"output": store, "snapshot": True, "format": form}))
    (export,) = exports_in(store)
    package = store / str(export) / f"db01.{form}"
    name = f"flow-{form}"
    place = ("-ds", "LocalDS_0", "-pool", "/DC0/host/DC0_H0/Resources")
    spec = json.loads(vcsim.govc("import.spec", str(package)))
    networks = [{"Name": mapping["Name"], "Network": "VM Network"} for mapping in spec.get("NetworkMapping") or []]
    options = store.parent / "import.json"
    options.write_text(json.dumps({**spec, "NetworkMapping": networks}))
    vcsim.govc(f"import.{form}", "-name", name, "-options", str(options), *place, str(package))
    devices = json.loads(vcsim.govc("device.info", "-json", "-vm", name))["devices"]
    assert [device["capacityInBytes"] for device in devices if "capacityInBytes" in device] == [8 << 20, 4 << 20]
    vcsim.govc("vm.destroy", name)
