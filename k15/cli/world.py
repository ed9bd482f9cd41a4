"""What every command works with: the checkout, its services, the store, and where to print."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from k15.recipes import Pipeline
from k15.store.artifact import Store
from k15.store.local import environment
from k15.store.plan import load_pipeline
from k15.store.tracking import TrackingServer

PIPED_WIDTH = 160


@dataclass(frozen=True)
class World:
    """One command's surroundings. Services are looked up when a command first needs them."""

    root: Path
    environ: Mapping[str, str]
    as_json: bool

    @cached_property
    def console(self) -> Console:
        """Standard output; colours and cut lines only where it is a terminal."""
        return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)

    def services(self, *needed: str) -> dict[str, str]:
        """The user's environment, with what reaches the checkout's own services where the user names none.

        ValueError where one of those `needed` ("s3", "prefect", "mlflow") is neither.
        """
        return {**self.environ, **environment(self.root, self.environ, needed)}

    @cached_property
    def store(self) -> Store:
        """The artifact store, checked to answer."""
        store = Store.from_environment(self.services("s3"))
        store.objects.check()
        return store

    def tracking(self) -> TrackingServer:
        """The MLflow server; ValueError where none is named and none is up."""
        return TrackingServer(self.services("mlflow")["MLFLOW_TRACKING_URI"], self.environ)

    def pipeline(self, args: argparse.Namespace) -> Pipeline:
        """The recipe a command names, with its --set overrides."""
        return load_pipeline(recipe_path(self.root, args.recipe), args.set, self.root)

    def put(self, value: Any, show: Callable[[], None]) -> None:
        """Print `value` as JSON where --json asks for it, and for people otherwise."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
        else:
            show()

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A bar on standard error where that is a terminal; a callable (done, total) moves it."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


Command = Callable[[argparse.Namespace, World], int]
Adder = Callable[..., argparse.ArgumentParser]  # (name, command, text, *examples)


def find_root(start: Path) -> Path:
    """The checkout that holds `start`: the nearest folder upwards with flows/ and stages/."""
    for folder in (start, *start.parents, Path(__file__).resolve().parents[2]):
        if (folder / "flows" / "pipeline.py").is_file() and (folder / "stages").is_dir():
            return folder
    raise ValueError(f"{start}: not inside a checkout of the project; change into one, or pass --root")


def recipe_path(root: Path, text: str) -> Path:
    """A recipe by its path, or by its folder under recipes/."""
    named = root / "recipes" / text / "pipeline.toml"
    return named if os.sep not in text and named.is_file() else Path(text)
