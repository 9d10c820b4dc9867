"""A disk written as a raw image: grains inflated side by side, holes where the disk holds nothing."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from hyperexport.base.units import KIB, SECTOR
from hyperexport.formats.vmdk import Header
from hyperexport.formats.vmdk_image import inflate_grain
from hyperexport.images.layer import Layer, naming
from hyperexport.images.stream import StoredGrain, StreamedDisk

_PAGE: Final = 4 * KIB
"""The unit in which filesystems keep holes."""
_ZEROS: Final = bytes(_PAGE)
_AHEAD: Final = 3
"""Stretches (1 MiB as stored) that are read ahead of each inflating thread."""


def write_raw(source: StreamedDisk, fd: int, progress: Callable[[int], None] | None = None) -> None:
    """Write a disk's bytes into an empty file, which is sparse afterwards.

    What was written counts only if no error is raised: the file is proved at its end.

    Args:
        source: The disk.
        fd: The file.
        progress: Called with how many stored bytes were read so far.

    Raises:
        VerificationFailed: A file of the disk is damaged; the message names it and the offset.
        OSError: The system did not take the bytes.
    """
    os.ftruncate(fd, source.disk.capacity)
    workers = os.cpu_count() or 1
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="inflate") as pool:
        try:
            for layer, grains in source.grains(progress):
                pending.append(pool.submit(_write_grains, layer, grains, fd))
                if len(pending) > workers * _AHEAD:
                    pending.popleft().result()
            while pending:
                pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_grains(layer: Layer, grains: list[StoredGrain], fd: int) -> None:
    with naming(layer.where):
        for number, sector, compressed in grains:
            _write_grain(layer.header, number, sector, compressed, fd)


def _write_grain(header: Header, number: int, sector: int, compressed: memoryview, fd: int) -> None:
    content = inflate_grain(header, number * header.grain, sector * SECTOR, compressed)
    offset = number * header.grain_bytes
    end = min(len(content), header.capacity_bytes - offset)
    view = memoryview(content)
    begin = 0
    for at in range(0, end, _PAGE):
        if content.startswith(_ZEROS, at):
            if begin < at:
                _write_at(fd, view[begin:at], offset + begin)
            begin = at + _PAGE
    if begin < end:
        _write_at(fd, view[begin:end], offset + begin)


def _write_at(fd: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
