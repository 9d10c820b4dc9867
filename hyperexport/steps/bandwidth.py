"""The throttle that a run's options describe."""

from hyperexport.options.groups import Bandwidth
from hyperexport.transfer.bandwidth.adaptive import AdaptiveRate
from hyperexport.transfer.bandwidth.rate_limit import RateLimit
from hyperexport.transfer.bandwidth.shared import Allowance
from hyperexport.transfer.bandwidth.throttle import Throttle


def throttle_for(
    wanted: Bandwidth, allowance: Allowance | None = None, *, warnings: list[str] | None = None
) -> Throttle:
    """Make the throttle that the options describe.

    Args:
        wanted: The options.
        allowance: The run's part of a shared budget. What has been leased passes evenly, at the budget's rate and
            without bursts, so that all runs together do not pass it either.
        warnings: The warnings about bandwidth for the run's result.
    """
    rate_limit = RateLimit(
        wanted.limit,
        windows=wanted.windows,
        most=allowance.bytes_per_second if allowance else None,
        adaptive=AdaptiveRate() if wanted.adaptive else None,
    )
    burst = 0 if allowance and wanted.burst is None else wanted.burst_bytes
    throttle = Throttle(None, burst, rate_limit=rate_limit, allowance=allowance)
    throttle.warnings = [] if warnings is None else warnings
    return throttle
