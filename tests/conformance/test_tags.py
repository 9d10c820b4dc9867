"""Tags, in both dresses of the REST API: ``/rest`` as VMware's own simulator keeps them, ``/api`` as our own has it."""

from collections.abc import Generator
from pathlib import Path

import pytest

from hyperexport import errors
from hyperexport.options.selection import Selection
from hyperexport.simulator import Simulator, VmSpec
from hyperexport.steps.selection import choose_vms
from hyperexport.vsphere.endpoint import VSphereEndpoint
from hyperexport.vsphere.session import Session, connect
from hyperexport.vsphere.tags import tagged_vms
from tests.conformance.vcsim import Vcsim, running_vcsim


@pytest.fixture(scope="module")
def tagged(go_peers: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Vcsim]:
    """A vcsim where DC0_H0_VM0 bears backup:daily, and VM1 that and `rack: a/b`; a host bears a tag, too."""
    with running_vcsim(go_peers, tmp_path_factory.mktemp("tagged"), "-vm", "3") as server:
        server.govc("tags.category.create", "-m", "backup")
        for tag in ("daily", "never", "rack: a/b"):
            server.govc("tags.create", "-c", "backup", tag)
        for vm, tag in (("DC0_H0_VM0", "daily"), ("DC0_H0_VM1", "daily"), ("DC0_H0_VM1", "rack: a/b")):
            server.govc("tags.attach", "-c", "backup", tag, f"/DC0/vm/{vm}")
        server.govc("tags.attach", "-c", "backup", "daily", "/DC0/host/DC0_H0/DC0_H0")
        for category, tag in (("site:west", "gold"), ("team", "a:b"), ("team:a", "b")):
            server.govc("tags.category.create", "-m", category)
            server.govc("tags.create", "-c", category, tag)
        server.govc("tags.attach", "-c", "site:west", "gold", "/DC0/vm/DC0_H0_VM2")
        yield server


@pytest.fixture(scope="module")
def modern() -> Generator[Simulator]:
    """The same on the simulator of ours, which answers at /api alone."""
    with Simulator(
        [
            VmSpec("DC0_H0_VM0", tags=("backup:daily",)),
            VmSpec("DC0_H0_VM1", tags=("backup:daily", "backup:rack: a/b")),
            VmSpec("DC0_H0_VM2"),
        ],
        tags=("backup:never",),
    ) as server:
        yield server


@pytest.fixture(params=["vmware", "ours"])
def endpoint(request: pytest.FixtureRequest) -> VSphereEndpoint:
    """Where each of the two is."""
    if request.param == "vmware":
        return VSphereEndpoint.from_environment(request.getfixturevalue("tagged").environment)
    return VSphereEndpoint.from_environment(request.getfixturevalue("modern").environment())


@pytest.fixture
def session(endpoint: VSphereEndpoint) -> Generator[Session]:
    """A login to it."""
    with connect(endpoint) as opened:
        yield opened


def chosen(session: Session, **words: object) -> list[str]:
    return [row.ref.name for row in choose_vms(session, Selection.model_validate(words)).rows]


def test_the_vms_that_bear_a_tag_are_chosen(session):
    assert chosen(session, tag="backup:daily") == ["DC0_H0_VM0", "DC0_H0_VM1"]
    assert chosen(session, tag="backup:rack: a/b") == ["DC0_H0_VM1"]


def test_a_colon_may_be_in_the_category_and_two_readings_are_no_guess(tagged):
    with connect(VSphereEndpoint.from_environment(tagged.environment)) as session:
        assert chosen(session, tag="site:west:gold") == ["DC0_H0_VM2"]
        with pytest.raises(errors.TagAmbiguous, match="'a:b' in category 'team'; tag 'b' in category 'team:a'"):
            tagged_vms(session, ["team:a:b"])


def test_one_of_several_tags_is_enough_and_a_pattern_narrows(session):
    assert chosen(session, tag=("backup:never", "backup:daily")) == ["DC0_H0_VM0", "DC0_H0_VM1"]
    assert chosen(session, tag="backup:daily", match="*VM0") == ["DC0_H0_VM0"]


def test_a_tag_that_nobody_bears_chooses_nobody_and_says_what_was_looked_for(session):
    with pytest.raises(errors.VmNotFound, match="--tag backup:never"):
        chosen(session, tag="backup:never")


@pytest.mark.parametrize(
    ("tag", "listed"), [("backup:dialy", "daily, never, rack: a/b"), ("bakcup:daily", "There are: backup")]
)
def test_a_tag_or_category_that_is_not_there_lists_those_that_are(session, tag, listed):
    with pytest.raises(errors.TagNotFound, match=listed):
        tagged_vms(session, [tag])


def test_a_password_that_the_rest_api_refuses_is_told_without_it(endpoint):
    with connect(endpoint) as session:
        session.endpoint = endpoint.model_copy(update={"password": type(endpoint.password)("not-it-at-all")})
        with pytest.raises(errors.LoginRefused) as refused:
            tagged_vms(session, ["backup:daily"])
    assert "not-it-at-all" not in str(refused.value)


def test_a_login_to_the_rest_api_is_ended(modern):
    with connect(VSphereEndpoint.from_environment(modern.environment())) as session:
        assert len(tagged_vms(session, ["backup:daily"])) == 2
    assert modern.rest_sessions() == 0
