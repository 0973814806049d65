"""Who may ask."""

import hmac
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.use.serve.bodies import BadRequest
from pipeline.use.serve.failures import failure


class Guard:
    """Lets in who has the key; and no page of another site, which a browser would let ask a server on its machine."""

    _OPEN = ("/", "/health")

    def __init__(self, app: ASGIApp, key: str | None):
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope) if scope["type"] == "http" else None
        await (failure(refused, scope["path"]) if refused else self._app)(scope, receive, send)

    def _refused(self, scope: Scope) -> BadRequest | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return BadRequest("Pages of other sites may not ask this server.", status=403)
        if not self._key and urlsplit(f"//{host}").hostname not in ("localhost", "127.0.0.1", "::1"):
            return BadRequest("Without a key this server answers to localhost alone.", status=403)
        if self._key and scope["path"] not in self._OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._key.encode()):
                told = "The API key is missing or wrong; it goes into the header Authorization: Bearer KEY."
                return BadRequest(told, code="invalid_api_key", status=401)
        return None
