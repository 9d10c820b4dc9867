"""``python -m simulator``: a simulated vCenter in a process of its own; see ``command.py``."""

import argparse
import logging
from pathlib import Path

from hyperexport.base.units import MIB
from hyperexport.simulator.command import run


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator", description="A simulated vCenter, for tests and demos."
    )
    parser.add_argument("--port", type=int, default=0, help="port of the vCenter; 0 chooses a free one")
    parser.add_argument("--vms", type=int, default=3, help="number of VMs")
    parser.add_argument("--disks", type=int, default=2, help="disks of each VM")
    parser.add_argument("--disk-size", type=int, default=64 * MIB, help="capacity of each disk in bytes")
    parser.add_argument("--used", type=float, default=0.25, help="the part of each disk that holds data, 0 to 1")
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--username", default="administrator@vsphere.local")
    parser.add_argument("--password", default=None, help="made up and written to the ready file unless given")
    parser.add_argument("--ready-file", type=Path, default=None, help="JSON file that tells how to reach it")
    parser.add_argument("--directory", type=Path, default=None, help="where the CA's certificate is written")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--lease-timeout", type=float, default=300.0, help="seconds without progress")
    parser.add_argument("--manifests", action=argparse.BooleanOptionalAction, default=True, help="hash what is sent")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
