"""One self-contained HTML page of a run."""

from collections.abc import Mapping
from html import escape
from typing import Any

from k15.report.charts import accuracy_chart, stages_chart
from k15.report.facts import Measure, Model, RunFacts
from k15.report.findings import headline, tiles
from k15.report.heat import heat_section
from k15.report.lineage import lineage_chart
from k15.report.palette import NEUTRAL, of_model
from k15.report.rounds import rollout_charts, rounds_charts, time_chart
from k15.report.style import STYLE

MARKS = {"correct": "✓ correct", "wrong": "✗ wrong", "unjudged": "? unjudged"}


def page(facts: RunFacts) -> str:
    """The whole page; sections without facts are left out."""
    body = [_head(facts)]
    if facts.models:
        body.append(_models(facts))
    if facts.phases:
        body += [_rounds(facts), *_rollouts(facts), _time(facts)]
    body += [_context(report) for report in facts.contexts]
    if facts.trajectories:
        body.append(_trajectories(facts))
    if facts.lineage:
        body += [_lineage(facts), _stages(facts)]
    body.append(_audit(facts))
    title = escape(f"k1.5 {facts.record.pipeline} {facts.record.run_id}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def section(title: str, text: str, *content: str) -> str:
    """A titled section; `text` is HTML."""
    lead = f"<p>{text}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{''.join(content)}</section>"


def duration(seconds: float) -> str:
    """Seconds for people: 12 min 31 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _head(facts: RunFacts) -> str:
    record = facts.record
    when = record.started[:16].replace("T", " ")
    cached = sum(stage.cached for stage in facts.stages)
    stages = f"{len(facts.stages)} stages" + (f", {cached} of them cached" if cached else "")
    items = [f"<b>{escape(record.pipeline)}</b>", escape(record.run_id), f"{when} UTC", stages]
    items += [f"{duration(record.seconds)} of wall time"] if record.seconds else []
    items += (
        [f"commit {escape(record.commit[:12])}{' + changes' if record.dirty else ''}"]
        if record.commit
        else []
    )
    shown = "".join(
        f'<div class="tile"><div class="name">{escape(tile.name)}</div>'
        f'<div class="value">{escape(tile.value)} <small>{escape(tile.unit)}</small></div>'
        f'<div class="more">{escape(tile.more).replace(" · ", "<br>")}</div></div>'
        for tile in tiles(facts)
    )
    strip = f'<div class="tiles">{shown}</div>' if shown else ""
    return f'<p class="eyebrow">{" &nbsp;·&nbsp; ".join(items)}</p><h1>{headline(facts)}</h1>{strip}'


def _models(facts: RunFacts) -> str:
    final = facts.record.final_key
    prompts = f"{facts.models[0].n:,} held-out prompts"
    text = (
        f"Every model on the same {prompts}. Whiskers and small print are 95% intervals, bootstrapped over "
        "prompts; arrows lead from a model to the one made from it."
    )
    classes = of_model(facts)
    head = "".join(f"<th>{name}</th>" for name in ("model", "sampled pass@1", "greedy", "mean tokens"))
    rows = "".join(_model_row(model, classes[model.name], final=model.key == final) for model in facts.models)
    table = f"<table><tr>{head}</tr>{rows}</table>"
    return section(
        "Accuracy against tokens", text, f'<div class="split"><div>{accuracy_chart(facts)}</div>{table}</div>'
    )


def _model_row(model: Model, colour: str, *, final: bool) -> str:
    name = f'<span class="swatch {colour}"></span><b>{escape(model.name)}</b>'
    cells = [
        f"<td>{name}</td>",
        f"<td>{model.sampled.value:.1%}{_interval(model.sampled, 100)}</td>",
        f"<td>{model.greedy.value:.1%}{_interval(model.greedy, 100)}</td>",
        f"<td>{model.tokens.value:.1f}{_interval(model.tokens, 1)}</td>",
    ]
    return f"<tr{' class=final' if final else ''}>{''.join(cells)}</tr>"


def _interval(measure: Measure, scale: float) -> str:
    return f"<small>{scale * measure.low:.1f} – {scale * measure.high:.1f}</small>"


def _rounds(facts: RunFacts) -> str:
    text = "Measured on each round's own training prompts. Dots are rounds, lines their moving average."
    return section("RL, round by round", text, f'<div class="three">{"".join(rounds_charts(facts))}</div>')


def _rollouts(facts: RunFacts) -> list[str]:
    charts = rollout_charts(facts)
    text = (
        "What a phase left for later, what ended early, how old the tokens of an update were, and how long "
        "each engine waited for the other."
    )
    return [section("Rollouts and updates", text, f'<div class="three">{"".join(charts)}</div>')] * bool(
        charts
    )


def _time(facts: RunFacts) -> str:
    text = (
        "Median seconds of a round. Orchestration is what is neither rollout, nor reward, nor training (with "
        "its reference pass): publishing weights, loading them, committing the round, and waiting."
    )
    return section("Where the time of a round goes", text, f'<div class="scroll">{time_chart(facts)}</div>')


def _context(report: Mapping[str, Any]) -> str:
    text = (
        "Greedy accuracy of look-ups at the end of a document, by its length and by how deep in it the fact "
        f"is first told. A length is usable where every depth reaches {report['usable_accuracy']:.0%}."
    )
    return section("Long context", text, heat_section(report))


def _trajectories(facts: RunFacts) -> str:
    names = _shown_models(facts)
    classes = of_model(facts)
    blocks = []
    for row in facts.trajectories:
        responses: Mapping[str, Any] = row["responses"]
        first = "".join(_answer(name, responses[name], classes) for name in names if name in responses)
        rest = "".join(_answer(name, responses[name], classes) for name in responses if name not in names)
        more = (
            f'<details><summary>other models</summary><div class="answers">{rest}</div></details>'
            if rest
            else ""
        )
        reference = f"{row['task']} · reference answer {row['reference']}"
        blocks.append(
            f'<div class="question"><h3>{escape(row["prompt"])}</h3>'
            f'<p class="reference">{escape(reference)}</p>'
            f'<div class="answers">{first}</div>{more}</div>'
        )
    text = (
        "One sample of each model for the same held-out prompts, the first of the set, whatever the outcome."
    )
    return section("Before and after", text, *blocks)


def _shown_models(facts: RunFacts) -> list[str]:
    """The models RL started from and ended with; all of them where there was no RL."""
    stages = {stage.name: stage for stage in facts.stages}
    names: list[str] = []
    for phase in facts.phases:
        manifest = stages[phase.name].manifest
        keys = [manifest.inputs["model"].key if manifest else "", stages[phase.name].key]
        names += [model.name for model in map(facts.made_by, keys) if model and model.name not in names]
    return names or [model.name for model in facts.models]


def _answer(name: str, answer: Mapping[str, Any], classes: Mapping[str, str]) -> str:
    status = str(answer["status"])
    return (
        f'<div class="answer"><div class="who"><b class="{classes.get(name, NEUTRAL)}">{escape(name)}</b>'
        f'<i class="{escape(status)}">{MARKS.get(status, escape(status))}</i>'
        f"<span>{answer['tokens']} tokens</span></div><pre>{escape(answer['response'])}</pre></div>"
    )


def _lineage(facts: RunFacts) -> str:
    text = (
        "Every artifact of the run and what it was made from, back to the raw data. Each digest "
        "pins the ones above it, so the last one pins every byte."
    )
    return section("Lineage", text, f'<div class="scroll">{lineage_chart(facts)}</div>')


def _stages(facts: RunFacts) -> str:
    cached = [stage for stage in facts.stages if stage.cached]
    text = "Independent stages run at the same time, within the machine's cores."
    if cached and len(cached) == len(facts.stages):
        text = "Every stage was found done; the bars show how long each took when it was made."
    elif cached:
        text += " Pale marks are stages found done, with the time they took when they were made."
    return section("Wall time per stage", text, f'<div class="scroll">{stages_chart(facts)}</div>')


def _audit(facts: RunFacts) -> str:
    record = facts.record
    uri = facts.model_uri or record.run_id
    commands = [f"k15 lineage {uri}", f"k15 verify {uri}", f"k15 report --run {record.run_id}"]
    parent = (
        f"{record.mlflow_uri}/#/runs/{record.mlflow_parent_run_id}" if record.mlflow_parent_run_id else ""
    )
    rows = {
        "final model": escape(uri),
        "recipe": escape(" ".join([record.recipe, *(f"--set {text}" for text in record.overrides)])),
        "commit": escape(record.commit) + (" with uncommitted changes" if record.dirty else ""),
        "Prefect": _link(record.prefect_url),
        "MLflow": _link(parent),
        "store": escape(facts.root),
    }
    shown = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items() if value)
    code = f'<pre class="code">{escape(chr(10).join(commands))}</pre>'
    text = "Print the whole tree with keys, digests and commits; hash every byte again; rebuild this page."
    return section("Audit it", text, code) + f"<footer><dl>{shown}</dl></footer>"


def _link(url: str) -> str:
    return f'<a href="{escape(url)}">{escape(url)}</a>' if url else ""
