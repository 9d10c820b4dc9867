"""How exactly the throttle keeps to what was asked, with one stream and with four.

Run as ``python -m benchmarks.throttle``. The bytes take the pipeline's way, from memory to nowhere, in real time.
"""

import argparse
import threading
import time
from pathlib import Path

from rich.table import Table

from benchmarks.harness import Reached, console, save
from hyperexport.base.stop import StopSignal
from hyperexport.base.units import MIB
from hyperexport.transfer.bandwidth.throttle import Throttle
from hyperexport.transfer.pipeline import transfer

RATES = (1, 10, 100, 500)
STREAMS = (1, 4)


class Moments:
    """A sink that notes when how many bytes came."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def write(self, data: memoryview) -> None:
        """Note the moment."""
        self.seen.append((time.perf_counter(), len(data)))


class Zeros:
    """A source of so many bytes, at no cost."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readinto(self, buffer: memoryview) -> int:
        """Leave the buffer as it is."""
        count = min(self._left, len(buffer))
        self._left -= count
        return count


def run(rate: int, streams: int, seconds: float) -> dict[str, float]:
    """Move ``seconds`` worth of bytes; the limit is ``rate`` MB/s."""
    throttle, stop, moments = Throttle(rate * MIB), StopSignal(), Moments()
    size = int(rate * MIB * seconds) // streams

    def stream() -> None:
        transfer(Zeros(size), [moments], throttle=throttle, stop=stop, digests=())

    threads = [threading.Thread(target=stream) for _ in range(streams)]
    cpu, began = time.process_time(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    return {
        "rate": rate,
        "streams": streams,
        "seconds": took,
        "achieved_over_asked": size * streams / took / (rate * MIB),
        "worst_second": worst_second(moments.seen, began) / (rate * MIB),
        "cpu_percent": 100 * (time.process_time() - cpu) / took,
    }


def worst_second(seen: list[tuple[float, int]], began: float) -> float:
    """The most bytes that came within any second, in bytes; windows begin at each arrival."""
    most, within, first = 0, 0, 0
    moments = [(began, 0), *sorted(seen)]
    for at, count in moments:
        within += count
        while moments[first][0] <= at - 1:
            within -= moments[first][1]
            first += 1
        most = max(most, within)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = [run(rate, streams, options.seconds) for rate in RATES for streams in STREAMS]
    table = Table(title="The throttle: achieved over asked (aim: within 2 %)", title_justify="left")
    for column in ("MB/s asked", "streams", "achieved/asked", "worst second", "CPU %"):
        table.add_column(column, justify="right")
    for figure in figures:
        table.add_row(
            f"{figure['rate']:.0f}",
            f"{figure['streams']:.0f}",
            f"{figure['achieved_over_asked']:.4f}",
            f"{figure['worst_second']:.3f}",
            f"{figure['cpu_percent']:.1f}",
        )
    console.print(table)
    farthest = max((figure["achieved_over_asked"] for figure in figures), key=lambda achieved: abs(achieved - 1))
    off = abs(farthest - 1)
    reached = Reached("throttle: achieved over asked, the worst of all", "within 2 %", f"{farthest:.4f}", off <= 0.02)
    save(options.json, "throttle", figures, [reached])


if __name__ == "__main__":
    main()
