"""Put every deployment in place from Python: ``python -m deployments [process|docker|kubernetes]``.

Creates what ``prefect deploy --all`` with the file of that kind of pool creates, and the pool and block types. What
exists keeps everything that was set in the Prefect UI.
"""

import sys

from hyperexport.deployments.definitions import POOLS, deployments, ensure_block_types, ensure_deployment, ensure_pool


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
        ensure_deployment(deployment)
        sys.stdout.write(f"{deployment.flow_name}/{deployment.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
