"""The stores that an export goes to, opened from the options."""

from hyperexport.base.stop import StopSignal
from hyperexport.options.groups import Destination
from hyperexport.store.base import Store
from hyperexport.store.local import LocalStore
from hyperexport.store.s3_settings import S3Location, S3Settings
from hyperexport.transfer.bandwidth.throttle import Throttle


def open_stores(
    destination: Destination, *, stop: StopSignal, s3: S3Settings | None = None, throttle: Throttle | None = None
) -> tuple[Store, ...]:
    """Open the stores that the options name, the local one first; nothing is touched yet.

    Args:
        destination: Where the export goes.
        stop: Ends uploads in flight.
        s3: How S3 is reached, where a saved block says; by boto3's own chain if None.
        throttle: The run's budget, which uploads and reads pay from too; None for no limit.
    """
    stores: list[Store] = []
    if destination.keep_local:
        stores.append(LocalStore(destination.output))
    if destination.upload:
        from hyperexport.store.s3 import S3Store  # noqa: PLC0415 - boto3 is loaded only where it is used

        settings = s3 or S3Settings(endpoint_url=destination.s3_endpoint)
        stores.append(S3Store(S3Location.parse(destination.upload), settings, throttle=throttle, stop=stop))
    return tuple(stores)


def check_stores(stores: tuple[Store, ...], *, unseen: bool = False) -> None:
    """Prove that an export can be kept in each, by writing and removing a probe.

    Args:
        stores: Where the export goes.
        unseen: Whether the probe must stay invisible to other processes: for a dry run.

    Raises:
        DiskFull: One has no space left.
        StoreUnusable: One can't be written.
        StoreUnreachable: One did not answer.
    """
    for store in stores:
        if unseen:
            store.check_unseen()
        else:
            store.check()
