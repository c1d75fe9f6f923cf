"""The service itself: its models, and how it is."""

from facemargin.client.operation import Parts, operation, text
from facemargin.client.replies import Live, Models, Ready


@operation("GET", "/v1/models", Models)
def models() -> Parts:
    """The loaded models, their measured figures and thresholds."""
    return Parts()


@operation("GET", "/health/live", Live)
def live() -> Parts:
    """Whether the process answers; needs no key."""
    return Parts()


@operation("GET", "/health/ready", Ready)
def ready() -> Parts:
    """Whether the service can do its work; `Unavailable` where it cannot. Needs no key."""
    return Parts()


@text("/metrics")
def metrics() -> Parts:
    """The service's metrics as Prometheus reads them."""
    return Parts()
