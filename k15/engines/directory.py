"""Samplers that others started, found in etcd: each announces itself under a lease that it keeps alive."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception
from etcd3gw.lease import Lease
from requests.exceptions import RequestException

log = logging.getLogger(__name__)

LEASE_S = 15  # a sampler that says nothing for so long is no longer listed
CALL_S = 5.0
FAULTS = (Etcd3Exception, RequestException)


class SamplerDirectory:
    """The addresses of a pool's samplers in etcd, under /k15/samplers/<pool>/."""

    def __init__(self, url: str, pool: str) -> None:
        """`url` as http(s)://host:port of etcd's clients; ValueError names what is wrong with it."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of etcd: write http://host:2379")
        if not pool or "/" in pool:
            raise ValueError(f"{pool!r} is no name of a pool: one word, without a slash")
        self._url, self._prefix = url, f"/k15/samplers/{pool}/"
        self._client = Etcd3Client(
            host=parts.hostname,
            port=parts.port or 2379,
            protocol=parts.scheme,
            api_path="/v3/",
            timeout=CALL_S,
        )

    def urls(self) -> list[str]:
        """Those listed now, in order; ConnectionError where etcd does not answer."""
        try:
            return sorted(value.decode() for value, _ in self._client.get_prefix(self._prefix))
        except FAULTS as error:
            raise ConnectionError(f"etcd at {self._url} does not answer: {reason(error)}") from error

    @contextmanager
    def announced(self, url: str) -> Iterator[None]:
        """List `url` while the block lasts; an etcd that is away meanwhile gets it once it is back.

        ConnectionError where etcd does not answer at the start.
        """
        try:
            lease = self._list(url)
        except FAULTS as error:
            raise ConnectionError(f"etcd at {self._url} does not answer: {reason(error)}") from error
        ended = threading.Event()
        thread = threading.Thread(target=self._keep, args=(url, lease, ended), name="etcd", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(2 * CALL_S)

    def _list(self, url: str) -> Lease:
        lease = self._client.lease(ttl=LEASE_S)
        self._client.put(self._prefix + url, url, lease=lease)
        return lease

    def _keep(self, url: str, lease: Lease, ended: threading.Event) -> None:
        while not ended.wait(LEASE_S / 5):
            try:
                if lease.refresh() <= 0:
                    lease = self._list(url)  # it ran out while etcd, or this process, stood still
                    log.info("etcd listed_again=%s", url)
            except FAULTS as error:
                log.warning("etcd=%s error=%s", self._url, reason(error))
        try:
            lease.revoke()
        except FAULTS as error:
            log.warning("etcd=%s error=%s", self._url, reason(error))


def reason(error: Exception) -> str:
    """What an error of the client says."""
    return str(error) or type(error).__name__
