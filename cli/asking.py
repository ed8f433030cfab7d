"""What commands share that ask services: options, the log of what was asked of whom, and who is alone in doing so."""

from __future__ import annotations

import logging
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.faults import CatalogueFault, Unavailable, writing
from eelit.cli.streams import plain_terminal

if TYPE_CHECKING:
    from eelit.bib.remote.services import Manners
    from eelit.bib.remote.web import Web

MAIL = re.compile(r"[!-?A-~]+@[!-?A-~]+")
AGAIN = "run this again when they can be asked: what was answered is kept, only the rest is asked for"
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
    from sqlite3 import Error

    from filelock import FileLock, Timeout

    from eelit.bib.remote.web import KEPT, Web, log, log_into
    from eelit.methods.data.cache import cache_root

    chosen = _manners(contact)
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
            web = Web(folder, chosen, anew=anew)
            with _watched():
                yield web
        except Error as error:
            raise CatalogueFault(
                f"the answers that are kept in {folder / KEPT} cannot be used ({error}); make room on the disk, or "
                "delete this file: then they are asked for again"
            ) from error
        finally:
            if web is not None:
                web.close()
                _say(web, str(folder / LOG))
            if handler is not None:
                log.removeHandler(handler)
                handler.close()
            lock.release()


def _manners(contact: str) -> Manners:
    """Return how to ask. Raises `click.UsageError` for what the user set to something that cannot be."""
    from eelit.bib.remote.services import CONTACT, MIRROR, manners

    chosen = manners(contact)
    if chosen.contact and not MAIL.fullmatch(chosen.contact):
        said = " ".join(chosen.contact.split())
        raise click.UsageError(f"`{said}` is no mail address; correct --contact or {CONTACT}, or leave it out")
    if chosen.mirror and not re.fullmatch(r"https?://[^/\s]\S*", chosen.mirror):
        raise click.UsageError(
            f"{MIRROR} is `{chosen.mirror}`; set it to an address that begins with http://, or unset it"
        )
    return chosen


def together(troubles: Iterable[str]) -> str:
    """Return who could not be asked and why as one text; those that failed for one reason are named together."""
    from eelit.bib.remote.services import SERVICES

    by_reason: dict[str, list[str]] = defaultdict(list)
    for trouble in troubles:
        label = next((each.label for each in SERVICES if trouble.startswith(f"{each.label} ")), "")
        by_reason[trouble.removeprefix(label).strip()].append(label)
    said = {reason: ", ".join(labels) + (":" if len(labels) > 1 else "") for reason, labels in by_reason.items()}
    return "; ".join(f"{who} {reason}".strip() for reason, who in said.items())


class _Line(logging.Handler):
    """Shows on one line of a terminal how far a run is, and whom it asks or waits for."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Replace the line."""
        told = record.getMessage()
        if record.levelno >= logging.INFO:
            self.said, told = told, ""
        self.show(" · ".join(part for part in (self.said, told) if part))

    def show(self, text: str) -> None:
        """Write the line anew."""
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)


@contextmanager
def _watched() -> Iterator[None]:
    """Show on a terminal what is going on; where nobody watches, say nothing."""
    from eelit.bib.remote.web import now

    if not sys.stderr.isatty() or plain_terminal():
        yield
        return
    line = _Line()
    now.addHandler(line)
    now.setLevel(logging.DEBUG)
    now.propagate = False
    try:
        yield
    finally:
        now.removeHandler(line)
        line.show("")


def _say(web: Web, place: str) -> None:
    from eelit.bib.remote.services import SERVICES

    labels = {service.name: service.label for service in SERVICES}
    counted = []
    for name in sorted(web.asked.keys() | web.unanswered.keys()):
        failed = f" ({web.unanswered[name]} without an answer)" if web.unanswered[name] else ""
        if count := web.asked[name] + web.unanswered[name]:
            counted.append(f"{labels.get(name, name)} {count}{failed}")
    said = f"requests: {', '.join(counted)}" if counted else "no service was asked, all answers were in the cache"
    click.echo(f"eelit: {said} (log: {place})", err=True)
