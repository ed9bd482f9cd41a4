"""Whom a client calls: a child process of ours (process.Service), or a service that others started."""

import time
from typing import Protocol, Self
from urllib.parse import urlsplit


class Peer(Protocol):
    """A service's address, and what is known of its life."""

    module: str  # its name in messages
    host: str
    port: int
    token: str
    session: str  # of all calls from here: a sampler serves one at a time
    ours: bool  # we started it, and end it

    @property
    def alive(self) -> bool:
        """False once it is known to be gone."""

    def explain_death(self) -> str:
        """What is known of its end, or of a call that broke off."""

    def wait_ready(self, *, deadline_s: float = 300.0) -> Self:
        """Return once calls may be made; ConnectionError or TimeoutError where they never may."""

    def stop(self, why: str = "") -> int:
        """No more calls: end it where it is ours, `why` is told."""


class Standing:
    """A service on another host: it was there before, and stays when it is called no more."""

    ours = False

    def __init__(self, url: str, token: str, session: str) -> None:
        """`url` as http://host:port; ValueError names what is wrong with it. `session` is of the run."""
        self.host, self.port = address(url)
        self.module, self.token = url, token
        self.session = session
        self._gone = ""

    @property
    def alive(self) -> bool:
        """Until it was given up."""
        return not self._gone

    def explain_death(self) -> str:
        """Why it was given up."""
        return f"{self.module} {self._gone or 'does not answer, or broke off the call; see its own log'}"

    def wait_ready(self, *, deadline_s: float = 300.0) -> Self:  # noqa: ARG002 (it runs, or it does not)
        """At once."""
        return self

    def stop(self, why: str = "") -> int:
        """Break off the calls under way; the service itself goes on."""
        self._gone = f"was given up at {time.strftime('%H:%M:%S')}: {why or 'the stage ends'}"
        return 0


def address(url: str) -> tuple[str, int]:
    """Host and port of `url`; ValueError where it is not http://host:port."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not parts.hostname or not port or parts.path.strip("/"):
        raise ValueError(f"{url!r} is no address of a sampler: write http://host:port")
    return parts.hostname, port
