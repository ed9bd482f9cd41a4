"""Build the images: `python -m infra.images [control] [engine] [--variant cpu|cuda] [--base NAME@sha256:…]`.

Wheels are fetched here, each checked against the lock's hash, and served to the build from loopback: the
build asks nobody else. Without a base, Debian 12 is made by debootstrap (root needed, once). Exit code 2 says
what is missing.
"""

import argparse
import functools
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docker.errors import APIError, BuildError, ImageNotFound

from flows.containers import connect
from k15.store.code import source_digest

ROOT = Path(__file__).resolve().parents[1]
CONTAINERS = ROOT / "containers"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "k15"
PACKAGES = ("ca-certificates", "libcurl4", "libibverbs1", "libnuma1", "python3", "python3-venv")
BASE = f"k15-base:{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:12]}"
LOCKS: dict[str, Callable[[str], list[str]]] = {
    "control": lambda _variant: ["control.txt"],
    "engine": lambda variant: [
        f"torch-{variant}.txt",
        "engine.txt" if variant == "cpu" else "engine-cuda.txt",
    ],
}
CONTEXT = {
    "control": ("k15", "flows", "stages", "recipes"),
    "engine": ("k15", "stages"),
}
WHEELS_PORT = 47_815
IGNORED = re.compile(r"(^|/)__pycache__(/|$)")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def main() -> int:
    """Build what is asked for, both by default."""
    parser = argparse.ArgumentParser(prog="python -m infra.images", description="Build the images.")
    parser.add_argument("names", nargs="*", metavar="control|engine", help="default: both")
    parser.add_argument("--variant", choices=("cpu", "cuda"), default="cpu", help="of engine")
    parser.add_argument("--base", default="", help="a public Debian 12 with its digest, NAME@sha256:…")
    arguments = parser.parse_args()
    try:
        names = arguments.names or list(LOCKS)
        if unknown := sorted(set(names) - set(LOCKS)):
            raise ValueError(f"no image {unknown[0]!r}; there are {', '.join(LOCKS)}")
        client = connect(os.environ)
        base = make_base(client, arguments.base)
        for name in names:
            build(client, name, arguments.variant, base)
    except ValueError as error:
        print(f"images: {error}", file=sys.stderr)
        return 2
    return 0


def make_base(client: Any, public: str) -> str:
    """The name of the base: of the public image with our packages, or of the one made by debootstrap."""
    if public:
        if not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", public):
            raise ValueError(f"BASE={public}: not pinned; write NAME@sha256:… with the digest you trust")
        name = f"k15-base:{public[-12:]}"
        with tempfile.TemporaryFile() as context:
            _pack(context, {"Dockerfile": CONTAINERS / "base.Dockerfile"})
            _build(client, name, context, {"BASE": public, "PACKAGES": " ".join(PACKAGES)})
        return name
    try:
        client.images.get(BASE)
        return BASE
    except ImageNotFound:
        pass
    tar = CACHE / f"{BASE.replace(':', '-')}.tar"
    if not tar.is_file():
        _debootstrap(tar)
    with tar.open("rb") as file:
        client.api.import_image_from_data(file, *BASE.split(":"))
    return BASE


def _debootstrap(tar: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        raise ValueError(
            "a base without a registry is made by root with debootstrap: `apt-get install debootstrap`, "
            "or name a public one: make images BASE=debian@sha256:…"
        )
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="k15-base-") as folder:
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm"]
        _run("debootstrap", [*command, f"{folder}/root", "http://deb.debian.org/debian"])
        shutil.rmtree(f"{folder}/root/var/cache/apt/archives", ignore_errors=True)
        shutil.rmtree(f"{folder}/root/var/lib/apt/lists", ignore_errors=True)
        partial = tar.with_suffix(".partial")
        _run("tar", ["tar", "--numeric-owner", "-C", f"{folder}/root", "-cf", str(partial), "."])
        partial.replace(tar)


def build(client: Any, name: str, variant: str, base: str) -> None:
    """One image, tagged k15-NAME:VARIANT (k15-control:latest)."""
    locks = [CONTAINERS / "locks" / lock for lock in LOCKS[name](variant)]
    if missing := [lock.name for lock in locks if not lock.is_file()]:
        raise ValueError(f"containers/locks has no {missing[0]}; make it as CONTRIBUTING.md says under Locks")
    digest = hashlib.sha256(b"".join(hashlib.sha256(lock.read_bytes()).digest() for lock in locks))
    wheels = CACHE / "wheels" / digest.hexdigest()[:16]
    content = {"Dockerfile": CONTAINERS / f"{name}.Dockerfile"}
    content |= {f"containers/locks/{lock.name}": wheels / lock.name for lock in locks}
    content |= {part: ROOT / part for part in ("containers/sbom.py", "pyproject.toml", *CONTEXT[name])}
    tag = f"k15-{name}:{variant if name == 'engine' else 'latest'}"
    fetch(locks, wheels)
    with served(wheels) as address, tempfile.TemporaryFile() as context:
        _pack(context, content)
        arguments = {"BASE": base, "WHEELS": address, "LOCK_DIGEST": f"sha256:{digest.hexdigest()}"}
        arguments |= {"VARIANT": variant, "LOCK": locks[-1].name} if name == "engine" else {}
        _build(client, tag, context, {**arguments, "COMMIT": _commit(), "SOURCE": source_digest(ROOT)})


def fetch(locks: list[Path], folder: Path) -> None:
    """Every wheel of the locks lies in `folder`, and beside them the locks with the hashes of these wheels.

    All that is fetched is checked against the locks; what is only to be had as source is built here.
    """
    if (folder / "complete").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(f"images: fetching wheels into {folder}", flush=True)
    pip = [str(ROOT / ".venv" / "tools" / "bin" / "python"), "-m", "pip"]
    given = [part for lock in locks for part in ("-r", str(lock))]
    _run("fetching", [*pip, "download", "-q", "--no-deps", "--require-hashes", *given, "-d", str(folder)])
    for source in [*folder.glob("*.tar.gz"), *folder.glob("*.zip")]:
        _run(f"building {source.name}", [*pip, "wheel", "-q", "--no-deps", "-w", str(folder), str(source)])
        source.unlink()
    wheels = {normal(path.name.split("-")[0]): path for path in folder.glob("*.whl")}
    for lock in locks:
        (folder / lock.name).write_text(pinned(lock.read_text(), wheels))
    (folder / "complete").touch()


def pinned(lock: str, wheels: dict[str, Path]) -> str:
    """The lock's packages, each with the hash of the wheel that stands for it."""
    lines = []
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock, re.MULTILINE):
        if (wheel := wheels.get(normal(name))) is not None:  # none: its marker leaves it out here
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            lines.append(f"{name}=={version} --hash=sha256:{digest}\n")
    return "".join(lines)


def normal(name: str) -> str:
    """A distribution's name as all its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of `folder` on loopback while the block runs; always the same, for the layers' cache."""
    handler = functools.partial(Handler, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler)
    except OSError as error:
        raise ValueError(f"port {WHEELS_PORT}: {error.strerror}; does another `make images` run?") from None
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _pack(file: Any, content: dict[str, Path]) -> None:
    """A build context, with modes and times that depend on the content alone."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if IGNORED.search(entry.name):
            return None
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, path in content.items():
            tar.add(path, name, filter=plain)
    file.seek(0)


def _build(client: Any, tag: str, context: Any, arguments: dict[str, str]) -> None:
    print(f"images: building {tag}", flush=True)
    try:
        image, _ = client.images.build(
            fileobj=context, custom_context=True, tag=tag, buildargs=arguments, network_mode="host", rm=True
        )
    except BuildError as error:
        log = "".join(str(line.get("stream", "")) for line in error.build_log)
        raise ValueError(f"{tag}: {error.msg}\n{log[-2000:]}") from None
    except APIError as error:
        raise ValueError(f"{tag}: {error.explanation}") from None
    print(f"images: {tag} {image.id} ({image.attrs['Size'] / 1e9:.2f} GB)", flush=True)


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _run(name: str, command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{name} failed:\n{done.stdout[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
