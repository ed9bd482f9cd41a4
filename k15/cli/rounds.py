"""`k15 show --round`: one round of an RL stage, at work or done: figures, groups, responses, segments."""

from typing import Any

from rich.text import Text

from k15.cli.world import World
from k15.store.artifact import Store
from k15.store.manifest import RoundManifest
from k15.store.rollouts import GROUPS_FILE, RESPONSES_FILE, SEGMENTS_FILE

FOLDER = "/rounds/"
COLUMNS = 4
NAME = 28
RESPONSE = 160  # characters shown of one

Json = dict[str, Any]


def show_round(world: World, uri: str, number: int | None, rows: int) -> int:
    """Print a round: its figures, and its first `rows` groups with what each response is made of."""
    rounds, record = _find(world.store, uri, number)
    groups = _groups(world.store, rounds, record, rows)
    value = {
        "uri": world.store.open_round(record).uri,
        "round": record.number,
        "committed": record.committed,
        "figures": record.state.get("row", {}),
        "lost": record.state.get("lost", []),
        "groups": groups,
    }
    world.put(value, lambda: _print(world, value))
    return 0


def is_round(uri: str) -> bool:
    """Whether an address is that of a round."""
    return uri.startswith("s3://") and FOLDER in uri


def _find(store: Store, uri: str, number: int | None) -> tuple[list[RoundManifest], RoundManifest]:
    """The stage's rounds up to the one meant, and that one; of a negative number, counted from the end."""
    if is_round(uri):
        root = store.objects.uri(FOLDER.lstrip("/"))
        key, _, name = uri.removeprefix(root).removesuffix(".json").partition("/")
        if not uri.startswith(root) or not name.isdigit():
            raise ValueError(f"{uri}: not a round of this store; they are {root}<key>/<number>.json")
        number = int(name) if number is None else number
    else:
        key = _key(store, uri)
    rounds = store.rounds(key)
    wanted = len(rounds) + number if number is not None and number < 0 else number
    found = [record for record in rounds if record.number == wanted]
    if not found:
        raise ValueError(f"{uri}: no round {number}; it has {len(rounds)} rounds, the first is 0")
    return rounds[: found[0].number + 1], found[0]


def _key(store: Store, text: str) -> str:
    """The stage meant: a finished one, or one at work by the beginning of its key."""
    begun = {info.path.split("/")[1] for info in store.objects.list("rounds/")}
    found = [key for key in begun if len(text) >= 6 and key.startswith(text)]
    return found[0] if len(found) == 1 else store.find(text).key


def _table(store: Store, record: RoundManifest, name: str) -> list[Json]:
    artifact = store.open_round(record)
    there = any(file.path == name for file in artifact.files)
    rows: list[Json] = artifact.read_table(name).to_pylist() if there else []
    return rows


def _groups(store: Store, rounds: list[RoundManifest], record: RoundManifest, rows: int) -> list[Json]:
    """The round's groups, each with its responses, each with its segments of all rounds so far."""
    groups = _table(store, record, GROUPS_FILE)[:rows]
    numbers = {group["group"] for group in groups}
    first = min((group["first_round"] for group in groups), default=0)
    segments: dict[tuple[int, int], list[Json]] = {}
    for one in rounds[first:]:
        for row in _table(store, one, SEGMENTS_FILE):
            if row["group"] in numbers:
                segments.setdefault((row["group"], row["sample"]), []).append(_segment(row))
    judged: dict[tuple[int, int], Json] = {}
    for number in {group["finished_round"] for group in groups if group["finished_round"] >= 0}:
        rows_of = _table(store, rounds[number], RESPONSES_FILE)
        judged |= {(row["group"], row["sample"]): row for row in rows_of if row["group"] in numbers}
    return [
        {
            **group,
            "responses": [
                {**judged.get(place, {"sample": place[1], "status": "open"}), "segments": parts}
                for place, parts in sorted(segments.items())
                if place[0] == group["group"]
            ],
        }
        for group in groups
    ]


def _segment(row: Json) -> Json:
    kept = {name: row[name] for name in ("round", "policy_version", "end", "token_ids")}
    return kept | {"tokens": len(row["token_ids"])}


def _print(world: World, value: Json) -> None:
    out = world.console
    out.print(Text(value["uri"], style="bold cyan"), soft_wrap=True)
    out.print(f"round    {value['round']}, committed {value['committed'][:19]}")
    figures = [f"{name} {number:.4g}" for name, number in sorted(value["figures"].items())]
    for start in range(0, len(figures), COLUMNS):
        out.print(Text("  " + "  ".join(f"{text:<{NAME}}" for text in figures[start : start + COLUMNS])))
    for lost in value["lost"]:
        out.print(f"lost     {lost['responses']} responses: {lost['reason']} (try {lost['tries'] + 1})")
    for group in value["groups"]:
        reason = f": {group['reason']}" if group["reason"] else ""
        out.print(f"\n[bold]{group['prompt_id']}[/bold]  group {group['group']}, {group['fate']}{reason}")
        for response in group["responses"]:
            parts = " → ".join(
                f"v{part['policy_version']} {part['tokens']} tokens, {part['end']}"
                for part in response["segments"]
            )
            out.print(Text(f"  {response['sample']}  {response['status']:<8}  {parts}"))
            if text := response.get("response", ""):
                shown = text.replace("\n", "⏎")
                out.print(Text(f"     {shown[:RESPONSE]}{'…' * (len(shown) > RESPONSE)}", style="dim"))
