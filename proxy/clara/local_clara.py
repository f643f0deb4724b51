"""The local CLaRa model of requests: its names, and its errors as those of the API."""

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager

from ...compression.clara.async_engine import ClaraBackend
from ...compression.clara.exceptions import UnknownRateError
from ...compression.models.errors import CheckpointError, DeadlineError, ModelError, QueueFullError
from ..protocols.api_errors import ApiError
from ..runtime.services import Services
from ..stores.errors import ThrottledLogger

MODEL_NAME = "clara"
_RATE_NAME = re.compile(r"clara-([0-9]{1,6})")
_FOLDERS = re.compile(r"""(?<![\w:/.])~?/(?:[^/\n:'"]+/)*""")  # of a path on this machine, up to the name of the file
_throttled_log = ThrottledLogger(logging.getLogger(__name__))


def parse_rate(model: str) -> int | None:
    """Return the compression rate in the name of a local model: 16 in `clara-16`, None in other names."""
    match = _RATE_NAME.fullmatch(model)
    return None if match is None else int(match[1])


def get_local_clara(services: Services) -> ClaraBackend:
    """Return the local CLaRa model.

    Raises:
        ApiError: 503 without a model; the message says how to get one.
    """
    if services.clara is None:
        message = "there is no CLaRa model; install the extra [clara], or set CLARA_MODEL to a checkpoint"
        raise ApiError(503, message, code="model_unavailable")
    return services.clara


@contextmanager
def map_clara_errors() -> Generator[None]:
    """Map CLaRa's exceptions to API errors: 429 for a full queue, 503 for a timeout or a failed load, else 400."""
    try:
        yield
    except QueueFullError as error:
        raise ApiError(429, str(error), code="overloaded", headers={"retry-after": "1"}) from error
    except DeadlineError as error:
        raise ApiError(503, str(error), code="deadline", headers={"retry-after": "1"}) from error
    except (CheckpointError, ImportError) as error:
        _throttled_log.warn(f"the CLaRa model cannot be loaded: {error}")
        message = f"the CLaRa model cannot be loaded: {_FOLDERS.sub('', str(error))}"  # the log names the folders
        raise ApiError(503, message, code="model_unavailable") from error
    except UnknownRateError as error:
        raise ApiError(404, str(error), param="model", code="model_not_found") from error
    except ModelError as error:
        raise ApiError(400, str(error), code="clara_error") from error
