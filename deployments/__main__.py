"""Put every deployment in place from Python: ``python -m deployments [process|docker|kubernetes]``.

The same as ``prefect deploy --all`` with the file of that kind of pool, and it makes the pool and the kinds of blocks.
A schedule that somebody has resumed is paused again only where it is new.
"""

import sys

from hyperexport.deployments.catalogue import POOLS, deployments, ensure_block_types, ensure_pool, keep_resumed


def main(words: list[str]) -> int:
    """Do it, and say what was done."""
    kinds = {pool.type: pool for pool in POOLS}
    kind = words[0] if words else "process"
    if kind not in kinds or len(words) > 1:
        sys.stderr.write(f"usage: python -m deployments [{'|'.join(kinds)}]\n")
        return 2
    pool = kinds[kind]
    ensure_pool(pool)
    ensure_block_types()
    for deployment in deployments(pool):
        keep_resumed(deployment).apply()  # pyright: ignore[reportUnusedCoroutine] - not without a loop
        sys.stdout.write(f"{deployment.flow_name}/{deployment.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
