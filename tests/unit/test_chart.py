"""The chart of a run's throughput: a picture that needs nothing beside it, and a table that says the same."""

import base64
import re
from xml.etree import ElementTree as ET

from hyperexport.base.units import MIB
from hyperexport.model.rates import MOST_MOMENTS, Moment, Rates
from hyperexport.views.chart import throughput_markdown, without_pictures

SVG = "{http://www.w3.org/2000/svg}"


def steady(item: str, *, rate: int = 8, moments: int = 20) -> Rates:
    return Rates(item=item, moments=tuple(Moment(at=second, moved=second * rate * MIB) for second in range(moments)))


def picture_in(page: str) -> bytes:
    found = re.search(r"!\[[^\]]+\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", page)
    assert found
    return base64.b64decode(found[1], validate=True)


def test_the_page_has_a_line_for_each_file_and_a_row_with_its_figures():
    page = "\n".join(throughput_markdown([steady("db01-disk-0.vmdk"), steady("db01-disk-1.vmdk", rate=2)]))
    picture = ET.fromstring(picture_in(page))
    assert len(picture.findall(f".//{SVG}path[@class='line']")) == 2
    assert {"db01-disk-0.vmdk", "db01-disk-1.vmdk", "MB/s", "seconds"} <= {node.text for node in picture.iter()}
    assert "| db01-disk-0.vmdk | 152.0 MB | 19.0 s | 8.0 MB/s | 8.0 MB/s | 8.0 MB/s |" in page


def test_the_picture_loads_nothing_and_runs_nothing():
    picture = picture_in("\n".join(throughput_markdown([steady("db01-disk-0.vmdk")])))
    assert not re.findall(rb"<script|<image|href=|url\(|@import", picture)


def test_no_name_can_break_the_picture_or_the_page():
    page = "\n".join(throughput_markdown([steady("a](b)|<script>&.vmdk")]))
    names = {node.text for node in ET.fromstring(picture_in(page)).iter()}
    assert "a](b)|<script>&.vmdk" in names
    assert r"| a\](b)\|\<script\>\&.vmdk |" in page


def test_a_page_with_many_long_transfers_stays_small():
    page = "\n".join(throughput_markdown([steady(f"db01-disk-{n}.vmdk", moments=MOST_MOMENTS) for n in range(16)]))
    assert len(page) < 150_000


def test_without_its_picture_the_page_keeps_its_words():
    lines = ["# Exported db01", "", *throughput_markdown([steady("db01-disk-0.vmdk")])]
    page = without_pictures("\n".join(lines))
    assert "data:" not in page
    assert page.startswith("# Exported db01\n\n## Throughput\n\n| File |")


def test_where_nothing_was_measured_nothing_is_said():
    assert throughput_markdown([]) == []
