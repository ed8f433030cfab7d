"""Whether an address still leads somewhere."""

from __future__ import annotations

import requests

from eelit.bib.remote.web import Web

GONE = (404, 410)
REFUSED = (403, 405, 406, 429, 501)
"""What servers say to programs, or to those who only ask for the head of a page: it proves nothing."""


def fault(web: Web, address: str) -> str:
    """Return why an address leads nowhere, or nothing. One that is only busy, or refuses programs, is not dead."""
    try:
        response = web.look(address, "HEAD")
        if response.status_code in (*GONE, *REFUSED):  # some know no HEAD
            response = web.look(address, "GET")
    except requests.Timeout:
        return ""
    except requests.ConnectionError:
        return "cannot be reached"
    except requests.RequestException as error:
        return f"cannot be followed ({type(error).__name__})"
    return f"is gone ({response.status_code})" if response.status_code in GONE else ""
