"""Whether addresses still lead somewhere."""

from __future__ import annotations

from urllib.parse import urlsplit

import requests

from eelit.bib.remote.web import Web

GONE = (404, 410)
REFUSED = (403, 405, 406, 429, 501)
"""What servers say to programs, or to those who only ask for the head of a page: it proves nothing."""
MOST_UNREACHED = 3
"""Hosts that cannot be reached, with none that can, after which it is the network that is missing."""


class NoNetwork(Exception):
    """No host at all can be reached; the message is one sentence."""


class Links:
    """One run that follows links. A host that cannot be reached is noted, and proves nothing about its links."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.reached = False
        self.unreached: dict[str, int] = {}  # host → links there that were not followed

    def fault(self, address: str) -> str:
        """Return that an address is gone, or nothing. Raises `NoNetwork`."""
        host = urlsplit(address).netloc
        if host in self.unreached:
            self.unreached[host] += 1
            return ""
        try:
            response = self.web.look(address, "HEAD")
            if response.status_code in (*GONE, *REFUSED):  # some know no HEAD
                response = self.web.look(address, "GET")
        except (requests.ConnectionError, requests.Timeout):
            self.unreached[host] = 1
            if not self.reached and len(self.unreached) >= MOST_UNREACHED:
                raise NoNetwork(f"{', '.join(self.unreached)} cannot be reached: links need a network") from None
            return ""
        except requests.RequestException as error:
            return f"cannot be followed ({type(error).__name__})"
        self.reached = True
        return f"is gone ({response.status_code})" if response.status_code in GONE else ""

    def troubles(self) -> list[str]:
        """Return which hosts could not be reached, a sentence each."""
        return [f"{host} cannot be reached; links that were not followed: {n}" for host, n in self.unreached.items()]
