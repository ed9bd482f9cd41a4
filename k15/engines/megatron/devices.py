"""Which of the GPUs it sees a rank takes: one of its own."""

import socket
from collections.abc import Sequence

import torch
import torch.distributed as dist


def take() -> None:
    """Make this rank's GPU the current one; ValueError where fewer are seen than ranks are to share them."""
    store = dist.distributed_c10d._get_default_store()
    seen = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    place = f"{socket.gethostname()} ({', '.join(seen)})"  # a launcher may show each rank GPUs of its own
    places = places_of_ranks(store, dist.get_rank(), dist.get_world_size(), place)
    torch.cuda.set_device(device_of(places, dist.get_rank(), len(seen)))


def places_of_ranks(store: dist.Store, rank: int, world: int, place: str) -> list[str]:
    """Every rank's host and the GPUs it sees, once all of them have said it; `place` is this one's."""
    store.set(f"place/{rank}", place)
    return [store.get(f"place/{other}").decode() for other in range(world)]


def device_of(places: Sequence[str], rank: int, num_devices: int) -> int:
    """The rank's number among those that see the same `num_devices` GPUs; ValueError where they are more."""
    here = [other for other, place in enumerate(places) if place == places[rank]]
    if len(here) > num_devices:
        raise ValueError(
            f"{len(here)} ranks are on host {places[rank]} with {num_devices} GPUs, and no two share one: "
            "use a smaller layout, or start torchrun on more hosts"
        )
    return here.index(rank)
