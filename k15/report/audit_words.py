"""The audit's sentences: what each kind of stage does, for someone who has never seen the project."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from k15.recipes import KINDS
from k15.store.manifest import Manifest

NOT_RECORDED = "not recorded"
TO_FILL_IN = "to be filled in"
DOES = {
    "data": "brought together the questions and worked examples that models learn from and are measured on",
    "base": "made or took over the starting model and its tokenizer",
    "pretrain": "trained the model to continue text",
    "activate": "trained the model on longer documents, so that it can use more text at once",
    "sft": "trained the model on questions with worked answers",
    "paths": "let a model answer many times and kept the answers that a checker found right",
    "longcot": "trained the model on long answers that think aloud, check and correct themselves",
    "rl": "let the model answer questions many times and strengthened the answers a checker found right",
    "merge": "averaged the weights of two models",
    "evaluate": "measured models on questions that no training has seen",
    "corpus": "generated documents with facts to look up",
    "context": "measured what the model finds in long documents",
}


def said(value: Any) -> Any:
    """A value, or the words for a missing one."""
    return NOT_RECORDED if value in ("", None) or value == {} else value


def what_it_did(manifest: Manifest) -> str:
    """One stage in words, without its name."""
    text = DOES.get(manifest.kind, f"ran a stage of kind {manifest.kind}")
    if manifest.kind == "rl" and manifest.recipe.get("length_reward_weight"):
        text += ", the more so the shorter they were"
    return text


def recipe_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """Every resolved value of a recipe by its dotted name, with what its class says of the field."""
    described = KINDS.get(manifest.kind)
    return list(_rows(manifest.recipe, described, ""))


def _rows(values: Mapping[str, Any], model: type[BaseModel] | None, prefix: str) -> Iterator[dict[str, Any]]:
    for name, value in values.items():
        field = model.model_fields.get(name) if model else None
        inner = _inner(field.annotation) if field else None
        text = (field.description if field else None) or NOT_RECORDED
        yield from _row(value, inner, prefix + name, text)


def _row(value: Any, inner: type[BaseModel] | None, name: str, text: str) -> Iterator[dict[str, Any]]:
    """A value, or those within it: a table by its fields, a list of tables by their numbers."""
    if isinstance(value, Mapping) and value:
        if inner and not value.keys() <= inner.model_fields.keys():  # names of the user's, each with a table
            for key, below in value.items():
                yield from _row(below, inner, f"{name}.{key}", text)
        else:
            yield from _rows(value, inner, f"{name}.")
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        for number, below in enumerate(value):
            yield from _row(below, inner, f"{name}[{number}]", text)
    else:
        yield {"field": name, "value": value, "description": text}


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The record within a field's type: itself, or of a tuple, a table or an optional."""
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner, get_args(annotation))), None)
