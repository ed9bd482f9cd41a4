"""A user's files and folders: known by content alone, uploaded once, verified on the way out."""

from pathlib import Path

import pytest

from k15.store import raw
from k15.store.artifact import Store
from k15.store.manifest import CorruptArtifact
from k15.store.tree import verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with things that do not belong to the model."""
    made = tmp_path / "model"
    (made / "sub").mkdir(parents=True)
    (made / ".git").mkdir()
    (made / "config.json").write_text("{}")
    (made / "sub" / "weights.safetensors").write_bytes(b"weights")
    (made / "pytorch_model.bin").write_bytes(b"pickled")
    (made / ".git" / "HEAD").write_text("x")
    return made


def test_a_folder_comes_back_as_it_was_without_hidden_and_pickled_files(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    ref = store.ingest(folder)
    assert ref == raw.reference(folder) == store.ingest(folder)
    back = store.open(ref).download(tmp_path / "back")
    found = {str(path.relative_to(back)): path.read_bytes() for path in back.rglob("*") if path.is_file()}
    assert found == {"config.json": b"{}", "sub/weights.safetensors": b"weights"}
    assert verify(store, ref) == []


def test_the_same_content_elsewhere_is_the_same_input_and_other_content_is_not(folder: Path) -> None:
    before = raw.reference(folder)
    moved = folder.rename(folder.with_name("moved"))
    assert raw.reference(moved) == before
    (moved / "sub" / "weights.safetensors").write_bytes(b"weightz")
    assert raw.reference(moved) != before


def test_an_upload_that_was_killed_is_finished(store: Store, folder: Path) -> None:
    ref = store.ingest(folder)
    store.objects.delete([f"raw/{ref.key}/{raw.TABLE}", f"raw/{ref.key}/config.json"])
    with pytest.raises(ValueError, match="no such file; run the pipeline to ingest it"):
        store.open(ref)
    store.ingest(folder)
    assert verify(store, ref) == []


@pytest.mark.parametrize("path", ["sub/weights.safetensors", raw.TABLE])
def test_a_flipped_byte_is_found(store: Store, folder: Path, path: str) -> None:
    ref = store.ingest(folder)
    stored = f"raw/{ref.key}/{path}"
    data = bytearray(store.objects.get(stored))
    data[-3] ^= 1
    store.objects.put(stored, bytes(data))
    assert len(verify(store, ref)) == 1
    with pytest.raises(CorruptArtifact, match="corrupt"):
        for entry in store.open(ref).files:
            store.open(ref).verify(entry)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such file; correct the path"):
        raw.reference(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="an empty folder"):
        raw.reference(tmp_path)
