"""The base of every stage recipe."""

from collections.abc import Collection
from typing import ClassVar

from k15.config import Config


class StageRecipe(Config):
    """All that may change a stage's result. Raise `version` when a stage's code changes what it makes."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    roles: ClassVar[tuple[str, ...]] = ()  # inputs a stage of this kind must have
    optional_roles: ClassVar[tuple[str, ...]] = ()  # inputs it may have ("*" at the end of a role: any such)

    def role_problems(self, roles: Collection[str]) -> tuple[str, ...]:
        """What is wrong between this recipe and the roles a node gives it, beyond `roles` above."""
        del roles
        return ()
