"""Any problem in the shape of OpenAI's errors."""

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from pipeline.errors import PipelineError
from pipeline.use.asking import TooLong, Unshowable
from pipeline.use.engine.request import Full
from pipeline.use.serve.bodies import BadRequest
from pipeline.use.serve.replies import error

SERVER_ERROR = "server_error"
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def failure(problem: Exception, path: str) -> JSONResponse:
    """`path` is of the route that was asked."""
    asked_in = "prompt" if path == "/v1/completions" else "messages"
    if isinstance(problem, BadRequest):
        kind = _KINDS.get(problem.status, "invalid_request_error")
        return JSONResponse(error(problem.message, kind, problem.param, problem.code), problem.status)
    if isinstance(problem, TooLong):
        told = error(problem.what, "invalid_request_error", asked_in, "context_length_exceeded")
        return JSONResponse(told, 400)
    if isinstance(problem, Unshowable):
        return JSONResponse(error(problem.what, "invalid_request_error", asked_in), 400)
    if isinstance(problem, Full):
        return JSONResponse(error(str(problem), _KINDS[429], code="rate_limit_exceeded"), 429, {"Retry-After": "1"})
    if isinstance(problem, HTTPException):
        return JSONResponse(error(problem.detail, "invalid_request_error"), problem.status_code, problem.headers)
    what = problem.what if isinstance(problem, PipelineError) else "The server failed; its own output says how."
    return JSONResponse(error(what, SERVER_ERROR), 500)
