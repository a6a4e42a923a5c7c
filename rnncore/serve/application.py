"""The Open Inference Protocol v2 over HTTP, as a Starlette app."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rnncore.runtime.model import Model
from rnncore.serve.inference import Inference, Shortcut
from rnncore.serve.metrics import AnswerMetrics, exposition
from rnncore.serve.middleware import RequestMiddleware, Tokens, error_response
from rnncore.serve.openapi import describe
from rnncore.serve.service import Limits, ServedModel, Service
from rnncore.serve.service_errors import ServiceError

__all__ = ["create_app"]

PAGE = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def create_app(
    models: Mapping[str, Model] | Service,
    *,
    tokens: Iterable[str] = (),
    hosts: Iterable[str] | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> Starlette:
    """An ASGI app that answers for models: run it, or mount it in another app.

        app = create_app({"tagger": model}, max_batch_size=64)
        uvicorn.run(app)                                    # or: other.mount("/models", app)

    models   name -> Model, or a Service
    tokens   secrets, one of which every request must carry; none: every client may ask
    hosts    names by which requests may call this server (their Host, without a port); None: any
    limits   Limits, or as keywords what it takes

    ``app.state.service`` is the Service. Its engines end with the app's lifespan; an app that is mounted has none of
    its own, and its engines end with the process, after what they accepted is answered.
    """
    service = models if isinstance(models, Service) else Service(models, limits or Limits(**options))
    metrics = AnswerMetrics()
    known = Tokens(tokens)
    inference = Inference(service)
    handlers = _Handlers(service, inference, metrics, bool(known))

    @asynccontextmanager
    async def lifespan(app: Starlette):
        yield
        await service.shutdown()

    app = Starlette(
        routes=handlers.routes(), lifespan=lifespan, exception_handlers={HTTPException: cast(Any, _http_error)}
    )
    app.router.redirect_slashes = False  # the address of a redirection would be made of what the client sent
    app.state.service = service
    app.state.metrics, app.state.tokens, app.state.inference = metrics, known, inference
    app.add_middleware(Shortcut, service=service, inference=inference)
    app.add_middleware(RequestMiddleware, service=service, tokens=known, metrics=metrics, hosts=hosts)
    return app


class _Handlers:
    """The answers of the routes."""

    def __init__(self, service: Service, inference: Inference, metrics: AnswerMetrics, with_tokens: bool):
        self._service, self._inference, self._metrics, self._with_tokens = service, inference, metrics, with_tokens

    def routes(self) -> list[Route]:
        models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        of_models = [
            ("", "metadata", self.model_metadata),
            ("/ready", "ready", self.model_ready),
            ("/config", "config", self.model_config),
            ("/stats", "stats", self.model_stats),
        ]
        return [
            Route("/v2/health/live", _free("health", self.live)),
            Route("/v2/health/ready", _free("health", self.ready)),
            Route("/v2", _guarded("server", self.server_metadata)),
            Route("/v2/repository/index", _guarded("index", self.index), methods=["POST"]),
            Route(
                "/v2/repository/models/{model}/{what}",
                _guarded("repository", self.no_loading),
                methods=["POST"],
            ),
            Route("/v2/models/stats", _guarded("stats", self.all_stats)),
            *[
                Route(f"{prefix}{path}", _guarded(name, handler))
                for prefix in models
                for path, name, handler in of_models
            ],
            *[Route(f"{prefix}/infer", self._inference, methods=["POST"]) for prefix in models],
            Route("/metrics", _guarded("metrics", self.metrics)),
            Route("/status", _guarded("status", self.status)),
            Route("/openapi.json", _free("openapi", self.openapi)),
            Route("/", _free("page", self.page)),
            Route("/page/{file}", _free("page", self.page)),
        ]

    def _model(self, request: Request) -> ServedModel:
        served = self._service.model(request.path_params["model"], request.path_params.get("version", ""))
        request.state.model = served.name
        return served

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        return self._readiness({})

    async def server_metadata(self, request: Request) -> Response:
        return JSONResponse(self._service.metadata())

    async def index(self, request: Request) -> Response:
        return JSONResponse(self._service.index())

    async def no_loading(self, request: Request) -> Response:
        raise ServiceError(403, "models are neither loaded nor unloaded over the network")

    async def model_metadata(self, request: Request) -> Response:
        return JSONResponse(self._model(request).metadata())

    async def model_ready(self, request: Request) -> Response:
        return self._readiness({"name": self._model(request).name})

    def _readiness(self, whose: dict[str, str]) -> Response:
        ready = self._service.ready
        return JSONResponse({**whose, "ready": ready}, 200 if ready else 503)

    async def model_config(self, request: Request) -> Response:
        return JSONResponse(self._model(request).config())

    async def model_stats(self, request: Request) -> Response:
        return JSONResponse({"model_stats": [self._model(request).statistics()]})

    async def all_stats(self, request: Request) -> Response:
        return JSONResponse({"model_stats": [served.statistics() for served in self._service.models.values()]})

    async def metrics(self, request: Request) -> Response:
        text = exposition(self._service, self._metrics)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def status(self, request: Request) -> Response:
        return JSONResponse(self._service.status())

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(describe(self._service, self._with_tokens))

    async def page(self, request: Request) -> Response:
        """A part of the status page: text that is the same for all."""
        name = request.path_params.get("file", "index.html")
        if name not in PAGE:
            raise HTTPException(404)
        content = await asyncio.to_thread((resources.files(__package__) / "page" / name).read_bytes)
        return Response(content, media_type=PAGE[name], headers=PAGE_HEADERS)


async def _http_error(request: Request, error: HTTPException) -> Response:
    more = ": openapi.json describes what is here" if error.status_code == 404 else ""
    return error_response(ServiceError(error.status_code, error.detail + more), request.state.request_id, error.headers)


def _free(route: str, handler: Any) -> Any:
    """A handler that needs no token."""

    async def handle(request: Request) -> Response:
        request.state.route = route
        return await handler(request)

    return handle


def _guarded(route: str, handler: Any) -> Any:
    """A handler for those with a token."""

    async def handle(request: Request) -> Response:
        request.state.route = route
        if request.state.owner is None:
            raise request.state.refused
        return await handler(request)

    return handle
