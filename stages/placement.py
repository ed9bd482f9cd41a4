"""Which of the GPUs that a stage sees each of its samplers gets.

The trainer's ranks take the first ones (k15.engines.megatron.devices). Samplers get the next, or with
resources.gpus_shared the same ones: `sampler_tensor` each.
"""

from collections.abc import Callable, Mapping

from k15.engines.service.process import Service
from k15.recipes.pipeline import Resources

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Placement:
    """A place for each of `replicas` samplers; who is started goes where the fewest live."""

    def __init__(self, resources: Resources, environment: Mapping[str, str]) -> None:
        """ValueError where there are fewer GPUs than the samplers need."""
        self._groups = groups(resources, environment)
        self._living: list[list[Service]] = [[] for _ in self._groups]

    def started(self, launch: Callable[[Mapping[str, str]], Service]) -> Service:
        """What `launch` starts with the variables that show it its GPUs; none without any."""
        if not self._groups:
            return launch({})
        self._living = [[one for one in there if one.alive] for there in self._living]
        place = min(range(len(self._groups)), key=lambda number: len(self._living[number]))
        service = launch({VISIBLE: ",".join(self._groups[place])})
        self._living[place].append(service)
        return service


def groups(resources: Resources, environment: Mapping[str, str]) -> list[list[str]]:
    """The GPUs of each sampler, as CUDA_VISIBLE_DEVICES names them; none where the stage has none."""
    if not resources.gpus or not resources.replicas:
        return []
    shown = environment.get(VISIBLE)
    visible = [str(number) for number in range(resources.gpus)] if shown is None else shown.split(",")
    size, first = resources.sampler_tensor, 0 if resources.gpus_shared else resources.layout.world
    needed = first + size * resources.replicas
    if needed > len(visible):
        trainer = "" if resources.gpus_shared else f" beside the {first} of the trainer"
        raise ValueError(
            f"{resources.replicas} samplers of sampler_tensor = {size} need {needed - first} GPUs{trainer},"
            f" and {len(visible)} are seen here: set gpus_shared, ask for less, or sample elsewhere"
        )
    return [visible[start : start + size] for start in range(first, needed, size)]
