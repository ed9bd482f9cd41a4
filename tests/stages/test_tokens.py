"""Tokens of data sets: those that one core makes row by row, however they are come by."""

import logging
from pathlib import Path
from typing import Any

import pytest

from k15.recipes.pipeline import Resources
from k15.stage import StageStopped
from k15.store.tables import Demonstration, demonstrations_to_table, text_to_table
from k15.tasks.format import end_token_id, prompt_text
from k15.tasks.tokenizer import load_tokenizer, tokenizer_digest, train_tokenizer
from stages import tokens
from stages.rows import EVERYTHING, RESPONSES, Kinds, read_role
from tests.stages.local import ADDITIONS, LocalContext, LocalInput

pytestmark = pytest.mark.engine
TEXTS = [f"{a} + {b} = {a + b}\n" * (1 + (7 * a + b) % 40) for a, b in ADDITIONS]
SAID = [Demonstration(f"{a} + {b} =", f"{a + b}, yes", "direct", "sum") for a, b in ADDITIONS]
DATA = {
    "documents": LocalInput(
        tables={"a.parquet": text_to_table(TEXTS), "b.parquet": text_to_table(TEXTS[:9])}
    ),
    "demonstrations": LocalInput(tables={"demonstrations.parquet": demonstrations_to_table(SAID)}),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and pieces of a few rows."""
    monkeypatch.setattr(tokens, "CHUNK_ROWS", 20)
    monkeypatch.setattr(tokens, "CHUNK_CHARACTERS", 3000)
    monkeypatch.setattr(tokens, "PIECE_CHARACTERS", 300)


def context(
    folder: Path, data: LocalInput, *, like: LocalContext | None = None, cores: int = 3
) -> LocalContext:
    """A stage's context; with `like` on that one's store."""
    made = LocalContext({"data": data}, folder, resources=Resources(cores=cores))
    if like is not None:
        made.store = like.store
    return made


def one_by_one(tokenizer: Any, kind: str, data: LocalInput) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """Every row as `encode` makes it."""
    rows = []
    for path in sorted(data.tables):
        for row in data.tables[path].to_pylist():
            asked = [] if "text" in row else tokenizer.encode(prompt_text(tokenizer, row["prompt"]))
            ids = asked + tokenizer.encode(row.get("text") or row["response"]) + [end_token_id(tokenizer)]
            unlearned = len(asked) if kind == "responses" else 1
            rows.append((tuple(ids), tuple(place >= unlearned for place in range(len(ids)))))
    return rows


def read(ctx: LocalContext, tokenizer: Any, kinds: Kinds) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    file = read_role(ctx, "data", tokenizer, kinds)  # type: ignore[arg-type]
    return [(row.token_ids, row.in_loss) for row in map(file.row, range(len(file)))]


@pytest.mark.parametrize(
    ("kinds", "name"),
    [(EVERYTHING, "documents"), (EVERYTHING, "demonstrations"), (RESPONSES, "demonstrations")],
)
def test_tokens_made_on_many_cores_or_kept_are_those_of_each_text_by_itself(
    model: LocalInput, tmp_path: Path, small: None, kinds: Kinds, name: str
) -> None:
    tokenizer = load_tokenizer(model.directory)
    expected = one_by_one(tokenizer, kinds.name, DATA[name])
    first = context(tmp_path / "first", DATA[name])
    assert read(first, tokenizer, kinds) == expected
    kept = dict(first.store.objects.kept)
    assert len(kept) > 5
    again = context(tmp_path / "again", DATA[name], like=first, cores=1)
    assert read(again, tokenizer, kinds) == expected
    assert first.store.objects.kept == kept
    files = [tmp_path / run / "rows-data" for run in ("first", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_stage_ended_amid_the_pass_goes_on_after_its_last_chunk(
    model: LocalInput, tmp_path: Path, small: None, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(model.directory)
    told = context(tmp_path / "told", DATA["documents"])

    def progress(done: int, total: int, what: str) -> None:
        if done > 100:
            raise StageStopped

    told.progress = progress  # type: ignore[method-assign]
    with pytest.raises(StageStopped):
        read_role(told, "data", tokenizer, EVERYTHING)  # type: ignore[arg-type]
    kept = len(told.store.objects.kept)
    assert kept >= 5
    caplog.set_level(logging.INFO, "stages.tokens")
    resumed = context(tmp_path / "resumed", DATA["documents"], like=told)
    assert read(resumed, tokenizer, EVERYTHING) == one_by_one(tokenizer, "everything", DATA["documents"])
    made = {record.args[0]: record.args[1:4] for record in caplog.records if isinstance(record.args, tuple)}
    done, total, fresh = made["local://input/a.parquet"]
    assert (done, total) == (len(TEXTS), len(TEXTS))
    assert 0 < fresh <= len(TEXTS) - 80
    assert len(resumed.store.objects.kept) > kept


def test_other_data_another_tokenizer_or_another_kind_share_nothing(
    model: LocalInput, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(model.directory)
    other = train_tokenizer(TEXTS, 280)
    less = LocalInput(tables={"demonstrations.parquet": demonstrations_to_table(SAID[:9])})
    store = context(tmp_path / "store", less)
    cases = [
        (tokenizer, RESPONSES, DATA["demonstrations"]),
        (tokenizer, EVERYTHING, DATA["demonstrations"]),
        (tokenizer, RESPONSES, less),
        (other, RESPONSES, less),
    ]
    for number, (some, kinds, data) in enumerate(cases):
        ctx = context(tmp_path / str(number), data, like=store)
        assert read(ctx, some, kinds) == one_by_one(some, kinds.name, data)
        assert len(store.store.objects.kept) == number + 1


def test_a_damaged_chunk_is_made_again(model: LocalInput, tmp_path: Path, small: None) -> None:
    tokenizer = load_tokenizer(model.directory)
    first = context(tmp_path / "first", DATA["documents"])
    expected = read(first, tokenizer, EVERYTHING)
    kept = first.store.objects.kept
    whole = dict(kept)
    for path in list(kept)[1::2]:
        kept[path] = kept[path][:-40] if len(kept) % 3 else kept[path].replace(kept[path][300:310], bytes(10))
    again = context(tmp_path / "again", DATA["documents"], like=first)
    assert read(again, tokenizer, EVERYTHING) == expected
    assert kept == whole


def test_the_row_that_cannot_be_made_is_named(model: LocalInput, tmp_path: Path, small: None) -> None:
    data = LocalInput(tables={"text.parquet": text_to_table([*TEXTS[:50], "", *TEXTS])})
    tokenizer = load_tokenizer(model.directory)
    with pytest.raises(
        ValueError, match="local://input/text.parquet: row 50: a training row needs 2 or more"
    ):
        read(context(tmp_path / "run", data), tokenizer, EVERYTHING)


def test_a_tokenizers_digest_is_that_of_what_it_does(model: LocalInput, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model.directory)
    copy = model.download(tmp_path / "copy")
    assert tokenizer_digest(tokenizer) == tokenizer_digest(load_tokenizer(copy))
    changed = load_tokenizer(copy)
    changed.chat_template = "{{ messages[0]['content'] }}"
    assert tokenizer_digest(changed) != tokenizer_digest(tokenizer)
    assert tokenizer_digest(train_tokenizer(TEXTS, 280)) != tokenizer_digest(tokenizer)
