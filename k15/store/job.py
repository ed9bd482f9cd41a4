"""A resolved job: everything one stage run needs, as one JSON document."""

from typing import Any

from k15.config import Config
from k15.recipes.pipeline import Resources
from k15.store.manifest import InputRef, stage_key


class Context(Config):
    """Who started the job: recorded, never part of the stage key."""

    run_id: str = ""
    prefect_flow_run_id: str = ""
    prefect_task_run_id: str = ""
    mlflow_uri: str = ""
    mlflow_experiment: str = "k15"
    mlflow_parent_run_id: str = ""
    commit: str = ""
    dirty: bool = False
    image_digest: str = ""
    lock_digest: str = ""
    launcher: str = "process"


class Job(Config):
    """One stage to run. `recipe` is resolved: every field present."""

    node: str
    kind: str
    version: int
    recipe: dict[str, Any]
    inputs: dict[str, InputRef] = {}
    resources: Resources = Resources()
    context: Context = Context()
    licenses: dict[str, str] = {}  # of raw inputs, by role, as far as the pipeline tells
    code: str = ""  # digest of the stage's code, where a strict run makes it part of the key

    @property
    def key(self) -> str:
        """The stage key: the same for every job that must give the same result."""
        return stage_key(self.kind, self.version, self.recipe, self.inputs, self.code)
