"""Samplers on other hosts, as an RL stage's resources name them: from a list, from etcd, or both."""

import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

from k15.engines.service.client import RemoteSampler
from k15.engines.service.messages import Needs
from k15.engines.service.peer import Standing, address
from k15.engines.service.settings import TOKEN_VARIABLE
from k15.recipes.pipeline import Resources
from k15.recipes.rl import RlRecipe

log = logging.getLogger("stages.services")

LOOPBACK = "127.0.0.1"
Connect = Callable[[], RemoteSampler]


def found(resources: Resources, needs: Needs, *, version: int) -> Callable[[], Mapping[str, Connect]]:
    """Who is there now, by address, each with what connects to it: for SamplerPool, which asks often.

    ValueError where an address is none, or the token is missing.
    """
    if not resources.samples_elsewhere:
        return dict
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise ValueError(f"samplers on other hosts: set {TOKEN_VARIABLE}, the secret they were started with")
    for url in resources.samplers:
        address(url)
    listed = _listed(resources)
    session = secrets.token_hex(8)  # of the whole run: one that it lost is not another's when it is back

    def connect(url: str) -> RemoteSampler:
        return RemoteSampler(Standing(url, token, session), version=version, needs=needs)

    def look() -> dict[str, Connect]:
        try:
            urls = [*resources.samplers, *listed()]
        except ConnectionError as error:  # the run goes on with those it has
            log.warning("samplers=unknown error=%s", error)
            urls = list(resources.samplers)
        return {url: partial(connect, url) for url in urls}

    return look


def _listed(resources: Resources) -> Callable[[], list[str]]:
    if not resources.etcd:
        return list
    # Its library is needed where etcd is used alone.
    from k15.engines.directory import SamplerDirectory  # noqa: PLC0415

    return SamplerDirectory(resources.etcd, resources.sampler_pool).urls


def own_address(resources: Resources, recipe: RlRecipe) -> str:
    """This host as samplers elsewhere reach it: the address it would call them from. Loopback without any.

    ValueError where the recipe's transport reaches no other host.
    """
    if not resources.samples_elsewhere:
        return LOOPBACK
    if recipe.transport == "shared_memory":
        raise ValueError(
            'transport = "shared_memory" reaches no sampler on another host: set transport = "tcp" or "rdma"'
        )
    peer = urlsplit(resources.samplers[0] if resources.samplers else resources.etcd).hostname or ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))  # of a datagram socket: nothing is sent, a route is chosen
        except OSError as error:
            raise ValueError(f"{peer}: no way there from this host ({error}); check resources") from error
        return str(probe.getsockname()[0])
