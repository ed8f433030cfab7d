"""Ask services politely: at their pace, again when they are busy, never for what is kept, each request logged.

Answers are kept in one SQLite file as they come, so that a run that is killed goes on where it was: what it has been
told is not asked again. What is kept and has grown old is asked for with its validator (`If-None-Match`), and costs
next to nothing if it has not changed. That a work is unknown is kept for a day; failures and what breaks off never.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import requests
from pydantic import BaseModel, ValidationError
from requests.adapters import HTTPAdapter
from requests_cache import AnyResponse, CachedSession
from requests_cache.models.response import CachedResponse
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError, ProxyError
from urllib3.util import Retry

from eelit.bib.remote.services import SERVICES, Manners, Service

KEPT = "answers.sqlite"
READING = ("GET", "HEAD", "POST")
"""With a POST, too, nothing is changed anywhere: it asks for many works, which an address could not hold."""
AGAIN = (429, 500, 502, 503, 504)
TRIES = 4
LONGEST_WAIT = 120
"""Seconds; a service that wants more of them is asked another day."""
MOST_FAILURES = 3
"""Failures one after the other, after which a service is left alone for the rest of a run."""
BREAKS = 2
"""How often an answer that breaks off is asked for again."""
UNKNOWN_FOR = timedelta(days=1)
"""How long it is believed that a service does not know a work."""
SPENT = ("X-RateLimit-Remaining", "X-RateLimit-Remaining-USD")
UNREACHED = (NewConnectionError, ConnectTimeoutError, ProxyError)
"""There is no such host, or no way to it: asked again once after a second, since it is hardly busy."""
log = logging.getLogger("eelit.asked")
now = logging.getLogger("eelit.now")
"""What a run does at the moment: at level info how far it is, at level debug whom it asks or waits for."""


class Answered(BaseModel):
    """What a service says in JSON, and the day on which it did so: what is kept may be some weeks old."""

    said_on: str = ""


Answer = TypeVar("Answer", bound=Answered)


class Unanswered(Exception):
    """A service could not be asked, or said something that cannot be understood; the message is one sentence."""

    def __init__(self, service: Service, why: str, *, lasting: bool = False) -> None:
        super().__init__(f"{service.label} {why}")
        self.service = service
        self.lasting = lasting


class _AskedToWait(Exception):
    """A service asks for more patience than a run has."""


class _Patient(Retry):
    """Waits before each further try, the first one too, as long as it is told to; and logs it."""

    def get_backoff_time(self) -> float:
        """Return the seconds to wait: doubled with each failure."""
        failures = len([past for past in self.history if past.redirect_location is None])
        if self.history and isinstance(self.history[-1].error, UNREACHED):
            return min(self.backoff_factor, 1.0)
        return min(self.backoff_factor * 2 ** (failures - 1), LONGEST_WAIT) if failures else 0.0

    def increment(self, *args: Any, **kwargs: Any) -> Self:
        """Return the retry that is left; log why there is one."""
        self._look(*args, **kwargs)
        left = super().increment(*args, **kwargs)
        if sum(isinstance(past.error, UNREACHED) for past in left.history) > 1:
            raise MaxRetryError(kwargs["_pool"], left.history[-1].url or "", left.history[-1].error)
        return left

    def sleep(self, response: Any = None) -> None:
        """Wait, and say so."""
        told = self.get_retry_after(response) if response is not None else None
        seconds = told or self.get_backoff_time()
        if seconds >= 1:
            now.debug("waiting %.0f s before asking again", seconds)
        super().sleep(response)

    def _look(self, method: str = "", url: str = "", response: Any = None, **rest: Any) -> None:
        """Log why a request is made again. Raises `_AskedToWait` if it cannot be in this run."""
        host = getattr(rest.get("_pool"), "host", "")
        if response is not None and response.status in AGAIN:
            told = response.headers.get("Retry-After")
            if told and self._seconds(told) > LONGEST_WAIT:
                raise _AskedToWait(f"asks to wait {self._seconds(told) / 60:.0f} minutes")
            if response.status == 429 and any(_is_zero(response.headers.get(name)) for name in SPENT):
                raise _AskedToWait("says that the day's budget is spent, until midnight UTC")
            log.info("%s %s%s → %d, again later", method, host, _bare(url), response.status)
        elif rest.get("error") is not None:
            log.info("%s %s%s → %s, again later", method, host, _bare(url), type(rest["error"]).__name__)

    def _seconds(self, told: str) -> float:
        return self.new(retry_after_max=10**9).parse_retry_after(told)


class _Paced(HTTPAdapter):
    """Lets some time pass between two requests, whichever thread makes them; a service has one connection."""

    def __init__(self, seconds: float, patience: Retry, secrets: Mapping[str, str]) -> None:
        """Add these headers to what is sent, and to nothing that is kept."""
        super().__init__(pool_connections=1, pool_maxsize=1, pool_block=True, max_retries=patience)
        self.seconds = seconds
        self.secrets = secrets
        self.last = float("-inf")
        self.lock = Lock()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request when it is time."""
        with self.lock:
            time.sleep(max(0.0, self.last + self.seconds - time.monotonic()))
            log.info("%s %s%s", request.method, _bare(request.url or ""), _body(request))  # first: a run may be killed
            try:
                sent = request.copy()
                sent.headers.update(self.secrets)
                response: requests.Response = super().send(sent, *args, **kwargs)
                response.request = request
            finally:
                self.last = time.monotonic()
        log.info("%s %s → %d", request.method, _bare(request.url or ""), response.status_code)
        return response


class Web:
    """One run's way to the services."""

    def __init__(self, folder: Path, manners: Manners, *, anew: bool = False) -> None:
        """Keep answers below a folder; `anew` asks whether what is kept is still so."""
        folder.mkdir(parents=True, exist_ok=True)
        self.manners = manners
        self.anew = anew
        self.asked: Counter[str] = Counter()  # requests that were answered, by service
        self.unanswered: Counter[str] = Counter()  # and those that were not
        self.failures: Counter[str] = Counter()  # one after the other, by service
        self.given_up: dict[str, str] = {}
        self.hosts: set[str] = set()  # beside those of services
        self.session = CachedSession(
            str(folder / KEPT),
            backend="sqlite",
            urls_expire_after={f"{_host(manners.base(service))}**": service.keep for service in SERVICES},
            allowable_codes=(200, 404),
            allowable_methods=READING,
            filter_fn=_whole,
        )
        who = f"; mailto:{manners.contact}" if manners.contact else ""
        self.session.headers["User-Agent"] = f"eelit/{version('eelit')} (catalogue of early-exit works{who})"
        for service in SERVICES:
            patience = _patience(manners.backoff(service))
            self.session.mount(manners.base(service), _Paced(manners.pace(service), patience, self._secrets(service)))

    def close(self) -> None:
        """Close connections and the file."""
        self.session.close()  # type: ignore[no-untyped-call]

    def get(
        self, service: Service, path: str, params: Mapping[str, str], kind: type[Answer], body: Any = None
    ) -> Answer | None:
        """Return what a service says in JSON, or None if it knows of no such thing. Raises `Unanswered`.

        A question that is too long for an address has a `body`, which is sent as JSON.
        """
        response = self._answer(service, path, params, body)
        if response is None:
            return None
        try:
            found = kind.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise self.not_understood(service, response, f"{where}: {first['msg']}") from error
        self.understood(service)
        found.said_on = response.created_at.date().isoformat()
        return found

    def text(self, service: Service, path: str, params: Mapping[str, str]) -> requests.Response | None:
        """Return an answer that is no JSON, or None if a service knows of no such thing. Raises `Unanswered`.

        Who reads it says whether it was `understood` or `not_understood`.
        """
        return self._answer(service, path, params)

    def understood(self, service: Service) -> None:
        """Note that a service gave an answer of use."""
        self.failures[service.name] = 0

    def not_understood(self, service: Service, response: requests.Response, why: str) -> Unanswered:
        """Forget an answer that cannot be understood, and return what to raise."""
        return self.refused(service, response, f"answers in a form that is not known here ({why})")

    def refused(self, service: Service, response: requests.Response, why: str) -> Unanswered:
        """Forget an answer that tells nothing of a work, and return what to raise."""
        self.session.cache.delete(requests=[response.request])
        return self._failed(service, why)

    def look(self, address: str, method: str) -> requests.Response:
        """Return what answers at an address, at its host's pace and never kept. Raises `requests.RequestException`."""
        host = urlsplit(address).netloc
        if host not in self.hosts:
            self.hosts.add(host)
            patience = Retry(total=1, status=0, allowed_methods=None)
            self.session.mount(f"{urlsplit(address).scheme}://{host}", _Paced(self.manners.host_pace, patience, {}))
        self.unanswered[host] += 1
        with self.session.cache_disabled():
            response = self.session.request(method, address, timeout=self.manners.timeout, stream=True)
        response.close()
        self.unanswered[host] -= 1
        self.asked[host] += 1
        return response

    def address(self, service: Service, path: str) -> str:
        """Return where something was read, as it is cited: at the service itself, or by way of which mirror."""
        return f"{service.base}{path}{self.manners.by_way}"

    def _answer(
        self, service: Service, path: str, params: Mapping[str, str], body: Any = None
    ) -> AnyResponse | None:  # fmt: skip
        if service.name in self.given_up:
            raise Unanswered(service, self.given_up[service.name], lasting=True)
        for left in reversed(range(BREAKS + 1)):
            response = self._sent(service, path, params, body, last=left == 0)
            if response is None:
                continue
            if response.status_code in (404, 410):
                self.understood(service)
                return None
            if response.status_code != 200:
                raise self._failed(service, f"answers with {response.status_code}")
            if _whole(response):
                return response
            log.info("GET %s%s broke off", service.name, path)
        raise self._failed(service, "broke off its answer")

    def _sent(
        self, service: Service, path: str, params: Mapping[str, str], body: Any, *, last: bool
    ) -> AnyResponse | None:  # fmt: skip
        """Return the response, or None if it broke off before the last try."""
        address = f"{self.manners.base(service)}{path}"
        now.debug("asking %s", service.label)
        try:
            response = self._got(address, params, body)
        except _AskedToWait as error:
            self.asked[service.name] += 1
            raise self._failed(service, str(error), lasting=True) from error
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
            self.unanswered[service.name] += 1
            if last:
                raise self._failed(service, "broke off its answer") from error
            return None
        except requests.RequestException as error:
            self.unanswered[service.name] += 1
            raise self._failed(service, _reason(error)) from error
        kept = isinstance(response, CachedResponse) and not response.revalidated
        self.asked[service.name] += not kept
        return response

    def _got(self, address: str, params: Mapping[str, str], body: Any) -> AnyResponse:
        asked: dict[str, Any] = {"params": dict(params), "json": body, "timeout": self.manners.timeout}
        method = "GET" if body is None else "POST"
        response = self.session.request(method, address, **asked, refresh=self.anew)
        known = isinstance(response, CachedResponse) and response.from_cache and response.status_code == 404
        if known and response.created_at < datetime.now(UTC) - UNKNOWN_FOR:
            return self.session.request(method, address, **asked, force_refresh=True)
        return response

    def _secrets(self, service: Service) -> dict[str, str]:
        key = self.manners.keys.get(service.name)
        if not key:
            return {}
        return {service.key_header: f"Bearer {key}" if service.key_header == "Authorization" else key}

    def _failed(self, service: Service, why: str, *, lasting: bool = False) -> Unanswered:
        self.failures[service.name] += 1
        if lasting or self.failures[service.name] >= MOST_FAILURES:
            self.given_up[service.name] = why
        return Unanswered(service, why, lasting=lasting)


def log_into(path: Path) -> logging.Handler:
    """Let a file say what was asked of whom, from now on; return what to remove at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    return handler


def today() -> str:
    """Return the date on which something is read."""
    return datetime.now(UTC).date().isoformat()


def _patience(backoff: float) -> _Patient:
    return _Patient(
        total=TRIES,
        backoff_factor=backoff,
        status_forcelist=AGAIN,
        allowed_methods=READING,
        respect_retry_after_header=True,
        retry_after_max=LONGEST_WAIT,
        raise_on_status=False,
    )


def _whole(response: requests.Response) -> bool:
    """Tell whether an answer is all there: what is called JSON is JSON, what is called XML is closed."""
    if response.status_code != 200:
        return True
    kind = response.headers.get("Content-Type", "")
    if "json" in kind:
        try:
            json.loads(response.content)
        except ValueError:
            return False
    return "xml" not in kind or response.content.rstrip().endswith(b">")


def _reason(error: requests.RequestException) -> str:
    cause = error.args[0] if error.args else error
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    if isinstance(error, requests.Timeout) or "timed out" in str(cause).lower():
        return "does not answer in time"
    if isinstance(error, requests.exceptions.RetryError):
        return "is busy or broken, however often it is asked"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    return f"cannot be asked ({type(error).__name__})"


def _is_zero(value: str | None) -> bool:
    try:
        return value is not None and float(value) <= 0
    except ValueError:
        return False


def _bare(address: str) -> str:
    """Return an address without what is nobody's business: keys and the contact are in headers, but one never knows."""
    parts = urlsplit(address)
    kept = "&".join(part for part in parts.query.split("&") if not part.startswith(("api_key=", "mailto=")))
    return parts._replace(query=kept).geturl()


def _body(request: requests.PreparedRequest) -> str:
    """Return what is sent with a request, as the log shows it."""
    body = request.body or ""
    return f" {body.decode('utf-8', 'replace') if isinstance(body, bytes) else body}".rstrip()


def _host(base: str) -> str:
    return base.partition("://")[2]
