"""Health and metrics, without FastAPI: probes read them all the time."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..runtime.services import get_services
from ..watch.metrics import CONTENT_TYPE


async def livez(_: Request) -> JSONResponse:
    """Return ok while the process answers."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> JSONResponse:
    """Return ready while the stores work and vocabularies, compressors and prices are loaded, else a 503."""
    if problems := get_services(request).health.problems:
        return JSONResponse({"status": "unavailable", "stores": problems}, 503, {"retry-after": "2"})
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Return the metrics of this process in Prometheus' text format."""
    return Response(await get_services(request).metrics.render_page(), headers={"content-type": CONTENT_TYPE})


HANDLERS: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
    "/livez": livez,
    "/readyz": readyz,
    "/metrics": metrics,
}
