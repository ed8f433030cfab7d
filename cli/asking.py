"""What commands share that ask services: options, the log of what was asked of whom, and who is alone in doing so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.faults import Unavailable, writing

if TYPE_CHECKING:
    from eelit.bib.remote.web import Web

ELSEWHERE = "name another cache folder in EELIT_CACHE"
LOG = "asked.log"


def ask_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of what asks a network."""
    options = [
        click.option(
            "--contact", default="", help="Your mail address, sent to services as a contact (also: EELIT_CONTACT)."
        ),
        click.option("--offline", is_flag=True, help="Send no requests (also: EELIT_OFFLINE=1)."),
        click.option("--anew", is_flag=True, help="Ask again even where an answer is in the cache."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def is_offline(chosen: bool) -> bool:
    """Tell whether nobody may be asked, by option or environment."""
    from eelit.bib.remote.services import offline

    return chosen or offline()


@contextmanager
def asking(contact: str, *, anew: bool) -> Iterator[Web]:
    """Give a way to the services, logged; at the end say what was asked of whom. One at a time per cache folder."""
    from filelock import FileLock, Timeout

    from eelit.bib.remote.services import manners
    from eelit.bib.remote.web import Web, log, log_into
    from eelit.methods.data.cache import cache_root

    folder = cache_root() / "remote"
    with writing(folder, ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise Unavailable("another eelit is using the services at the moment; wait until it has ended") from error
        handler, web = None, None
        try:
            handler = log_into(folder / LOG)
            web = Web(folder, manners(contact), anew=anew)
            yield web
        finally:
            if web is not None:
                web.close()
                _say(web, str(folder / LOG))
            if handler is not None:
                log.removeHandler(handler)
                handler.close()
            lock.release()


def _say(web: Web, place: str) -> None:
    from eelit.bib.remote.services import SERVICES

    labels = {service.name: service.label for service in SERVICES}
    counted = [f"{labels.get(name, name)} {count}" for name, count in sorted(web.asked.items()) if count]
    said = f"requests: {', '.join(counted)}" if counted else "no service was asked, all answers were in the cache"
    click.echo(f"eelit: {said} (log: {place})", err=True)
