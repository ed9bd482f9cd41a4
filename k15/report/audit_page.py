"""The audit as one self-contained page that prints; everything on it is in the document, and no more."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from k15.report.audit_words import NOT_RECORDED, TO_FILL_IN
from k15.report.page import section
from k15.report.style import STYLE

PRINTED = """
.wide { overflow-x: auto; } .wide td, .wide th { text-align: left; white-space: normal; vertical-align: top;
  overflow-wrap: anywhere; padding: 6px 10px 6px 0; }
h3 { font-size: 16px; margin: 34px 0 6px; } h4 { font-size: 13px; color: var(--soft); margin: 16px 0 4px; }
dl.facts { display: grid; grid-template-columns: 11em 1fr; gap: 3px 18px; margin: 8px 0; font-size: 13.5px; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.verdict { border: 1px solid currentColor; border-radius: 8px; padding: 14px 16px; font-weight: 600; }
.blank { display: inline-block; min-width: 16em; border-bottom: 1px solid var(--ink); }
ol.story li { margin: 4px 0; }
@media print { :root { color-scheme: light; } main { max-width: none; padding: 0; }
  section { margin-top: 28px; } h2, h3, h4 { break-after: avoid; }
  tr, dl.facts { break-inside: avoid; } .wide { overflow: visible; } }
"""


def audit_page(document: Mapping[str, Any]) -> str:
    """The whole page of a document as `k15.report.audit.document` makes it."""
    stages = document["stages"]
    made = [stage for stage in stages if stage["made_the_model"]]
    rest = [stage for stage in stages if not stage["made_the_model"]]
    body = [
        _head(document),
        _story(document, made),
        _verification(document["verification"]),
        _evaluations(document["evaluation"]),
        _data(document["data"]),
        section("Who started it", "The runs that made it, the newest first.", *map(_run, document["runs"]))
        if document["runs"]
        else section("Who started it", NOT_RECORDED),
        section("Stages that made the model", "In the order they ran on each other.", *map(_stage, made)),
    ]
    if rest:
        text = "These made what the model is compared with, and the figures themselves."
        body.append(section("Stages behind the evaluation", text, *map(_stage, rest)))
    body += [_sign_off(document["sign_off"]), _digest(document)]
    title = escape(f"Audit of {document['model']['name']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{PRINTED}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def story(document: Mapping[str, Any], made: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the model is, and what each stage did, as sentences."""
    model = document["model"]
    lines = [
        f"The model {model['name']} is a language model ({model['architecture']}; layers: {model['layers']}; "
        f"width: {model['hidden_size']}; vocabulary: {model['vocabulary']}). "
        f"It is {model['num_files']} files of {model['bytes']:,} bytes together.",
    ]
    for stage in made:
        given = stage["provenance"]
        seconds = given["seconds"]
        took = f"in {seconds:,.1f} s" if isinstance(seconds, float) else "in a time that is not recorded"
        lines.append(
            f"{stage['name']}: {stage['what']} (begun {given['started']}, {took}, on host {given['host']})."
        )
    return lines


def _head(document: Mapping[str, Any]) -> str:
    model, passed = document["model"], document["verification"]["passed"]
    verdict = "is what its records say" if passed else "<em>is not what its records say</em>"
    return (
        f'<p class="eyebrow"><b>Audit</b> &nbsp;·&nbsp; {escape(document["written"])} UTC</p>'
        f"<h1>The model {escape(model['name'])} {verdict}</h1>"
        + _facts({"address": model["uri"], "key": model["key"], "digest": model["digest"]})
    )


def _story(document: Mapping[str, Any], made: Sequence[Mapping[str, Any]]) -> str:
    first, *steps = story(document, made)
    text = (
        "Each stage read only what earlier ones had left; its record holds the digest of everything it read, "
        "so the digest of the model pins every byte it was made from."
    )
    shown = "".join(f"<li>{escape(step)}</li>" for step in steps)
    return section(
        "What it is and how it was made", escape(first), f'<ol class="story">{shown}</ol>', f"<p>{text}</p>"
    )


def _verification(found: Mapping[str, Any]) -> str:
    if found["passed"]:
        text = f"Passed: {found['bytes']:,} bytes were hashed again and are as recorded."
        return section(
            "Verification", f"Done {escape(found['date'])} UTC.", f'<p class="verdict correct">{text}</p>'
        )
    text = f"FAILED: {len(found['problems'])} problems in {found['bytes']:,} bytes hashed again."
    return section(
        "Verification",
        f"Done {escape(found['date'])} UTC.",
        f'<p class="verdict wrong">{text}</p>',
        _table(("address", "problem"), ((row["uri"], row["what"]) for row in found["problems"])),
    )


def _evaluations(evaluations: Sequence[Mapping[str, Any]]) -> str:
    text = "Intervals (low to high) are 95 %, bootstrapped over prompts. Shares are from 0 to 1."
    if not evaluations:
        return section("Evaluation", f"{NOT_RECORDED}: no evaluation of this model is in the store.")
    blocks = [block for found in evaluations for block in _evaluation(found)]
    return section("Evaluation", text, *blocks)


def _evaluation(found: Mapping[str, Any]) -> list[str]:
    values = found["figures"]
    blocks = [
        f"<h3>{escape(found['stage'])}</h3>",
        _facts({"address": found["uri"], "digest": found["digest"]}),
    ]
    blocks += [f"<p>The model is called <b>{escape(found['model'])}</b> there.</p>"] * bool(found["model"])
    if not isinstance(values, Mapping):
        return [*blocks, f"<p>{escape(str(values))}</p>"]
    for name, rows in values.items():
        blocks.append(f"<h4>{escape(name)}</h4>")
        if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
            flat = [_flat(row) for row in rows]
            head = list(dict.fromkeys(name for row in flat for name in row))
            blocks.append(_table(head, ([row.get(name, NOT_RECORDED) for name in head] for row in flat)))
        else:
            flat_value = _flat(rows) if isinstance(rows, Mapping) else {name: rows}
            blocks.append(_facts(flat_value))
    return blocks


def _data(rows: Sequence[Mapping[str, Any]]) -> str:
    text = "Raw files as they were brought in, and the parts of artifacts that stages read."
    head = ("data set", "licenses", "rows", "bytes", "files", "read by", "digest and address")
    shown = (
        (
            row["name"],
            "; ".join(f"{one['of']}: {one['license']}" for one in row["licenses"]),
            row["rows"],
            row["bytes"],
            row["num_files"],
            ", ".join(row["read_by"]),
            f"{row['digest']} {row['uri']}",
        )
        for row in rows
    )
    return section("Data and licenses", text, _table(head, shown))


def _run(run: Mapping[str, Any]) -> str:
    return f"<h3>{escape(run['run_id'])}</h3>" + _facts(
        {_words(k): v for k, v in run.items() if k != "run_id"}
    )


def _stage(stage: Mapping[str, Any]) -> str:
    head = {"kind": f"{stage['kind']}, version {stage['version']}", "address": stage["uri"]}
    head |= {"key": stage["key"], "digest": stage["digest"]}
    head |= {_words(name): value for name, value in stage["provenance"].items()}
    inputs = ((row["role"], row["from"], row["part"], row["digest"], row["uri"]) for row in stage["inputs"])
    recipe = ((row["field"], json.dumps(row["value"]), row["description"]) for row in stage["recipe"])
    files = ((row["path"], row["size"], row["sha256"]) for row in stage["files"])
    return (
        f"<h3>{escape(stage['name'])}</h3><p>It {escape(stage['what'])}.</p>{_facts(head)}"
        f"<h4>read</h4>{_table(('role', 'from', 'part', 'digest', 'address'), inputs)}"
        f"<h4>recipe</h4>{_table(('field', 'value', 'what it is'), recipe)}"
        f"<h4>resources, which change no result</h4>{_facts(_flat(stage['resources']))}"
        f"<h4>licenses recorded</h4>{_facts(_named(stage['licenses']))}"
        f"<h4>figures it left</h4>{_facts(_named(stage['summary']))}"
        f"<h4>files</h4>{_table(('path', 'bytes', 'sha256'), files)}"
    )


def _sign_off(given: Mapping[str, Any]) -> str:
    blank = f'<span class="blank">&nbsp;</span> ({TO_FILL_IN})'
    lines = {name: blank if value == TO_FILL_IN else escape(value) for name, value in given.items()}
    shown = "".join(
        f"<dt>{name}</dt><dd>{line}</dd>" for name, line in (lines | {"signature": blank}).items()
    )
    text = "By signing, a person states to have read this document and decides on the use of the model."
    return section("Sign-off", text, f'<dl class="facts">{shown}</dl>')


def _digest(document: Mapping[str, Any]) -> str:
    text = (
        "The JSON file beside this page holds the same content. Its last field is the digest of all others, "
        "as JSON with sorted keys and without spaces; it must be this one:"
    )
    return section("Digest of this document", text, f'<pre class="code">{escape(document["digest"])}</pre>')


def _facts(values: Mapping[str, Any]) -> str:
    shown = "".join(f"<dt>{escape(name)}</dt><dd>{_cell(value)}</dd>" for name, value in values.items())
    return f'<dl class="facts">{shown}</dl>'


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    shown = "".join("<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row) + "</tr>" for row in rows)
    if not shown:
        return "<p>nothing</p>"
    named = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="wide"><table><tr>{named}</tr>{shown}</table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if value in ("", [], {}):
        return "none"
    return escape(value if isinstance(value, str) else json.dumps(value))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat


def _named(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {"all": value}


def _words(name: str) -> str:
    return name.replace("_", " ")
