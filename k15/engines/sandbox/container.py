"""The outer wall of a slot: a crun container, or bubblewrap where that was chosen."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from k15 import values
from k15.engines.sandbox import inside

# Of this package, what a slot runs: where it is in the slot, and here.
INSIDE = {
    "/k15/k15/engines/sandbox/inside": str(Path(inside.__file__).parent),
    "/k15/k15/values.py": str(Path(values.__file__)),
}
PROGRAM = "k15.engines.sandbox.inside.server"
PYTHON = "/usr/bin/python3"
# Of the host (or of the image that the service runs in), and nothing else of it.
SHOWN = ("/usr/bin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/include")
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
CAPABILITIES = ["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL"]
FIRST_HOST_USER = 0x6000_0000  # far above any account; each slot has a range of its own
USERS_PER_SLOT = 1 << 16
ENVIRONMENT = {"PATH": "/usr/bin", "PYTHONPATH": "/k15", "PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}
COMMAND = [PYTHON, "-s", "-S", "-B", "-m", PROGRAM]
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
INSTALL = {"crun": "crun", "bubblewrap": "bubblewrap"}
# Joins the slot's groups, hides a version 2 hierarchy that crun would take for the whole, becomes crun.
JOIN = """
for group in $GROUPS_OF_SLOT; do echo $$ > "$group/cgroup.procs" || exit 3; done
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified || exit 4; fi
exec "$@"
"""


def require(isolation: str) -> None:
    """ValueError where the wall cannot be built here, with what to do."""
    program = {"crun": "crun", "bubblewrap": "bwrap"}[isolation]
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise ValueError("the sandbox runs on Linux on x86-64 only")
    if not shutil.which(program):
        raise ValueError(
            f"{program} is missing; apt-get install -y --no-install-recommends {INSTALL[isolation]}"
        )
    if isolation == "crun" and os.geteuid() != 0:
        raise ValueError(
            "crun slots need root (user ranges and cgroups); run the service as root, or set isolation to"
            ' "bubblewrap", a weaker wall without cgroups'
        )


def make_rootfs(root: Path) -> None:
    """The skeleton of a slot's root: what is shown of the host is mounted over it, read-only."""
    for folder in (
        "dev",
        "etc",
        "k15/k15/engines/sandbox/inside",
        "proc",
        "tmp",
        *(path[1:] for path in SHOWN),
    ):
        (root / folder).mkdir(parents=True)
    (root / "k15" / "k15" / "values.py").touch()
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def shown() -> list[str]:
    """What exists here of SHOWN."""
    return [path for path in SHOWN if Path(path).is_dir()]


def crun_command(state: Path, root: Path, index: int, groups: list[Path]) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a slot under crun; its bundle is written to `state`."""
    bundle = state / f"slot-{index}"
    shutil.rmtree(bundle, ignore_errors=True)
    (bundle / "crun").mkdir(parents=True)
    (bundle / "config.json").write_text(json.dumps(_config(root, index)))
    crun = ["crun", "--cgroup-manager=disabled", "--root", str(bundle / "crun")]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", JOIN, "sh"]
    command += [*crun, "run", "--bundle", str(bundle), f"{bundle.parent.name}-{index}"]
    return command, {"PATH": os.environ["PATH"], "GROUPS_OF_SLOT": " ".join(map(str, groups))}


def bubblewrap_command(root: Path) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a slot under bubblewrap: no cgroups, one user only."""
    command = ["bwrap", "--unshare-all", "--unshare-user", "--uid", "0", "--gid", "0", "--die-with-parent"]
    command += ["--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in shown():
        command += ["--ro-bind", path, path]
    for place, source in INSIDE.items():
        command += ["--ro-bind", source, place]
    command += ["--chdir", "/tmp", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += ["--cap-drop", "ALL", *(word for name in CAPABILITIES for word in ("--cap-add", name))]
    return [*command, "--", *COMMAND], {"PATH": os.environ["PATH"]}


def _config(root: Path, index: int) -> dict[str, Any]:
    """The OCI runtime configuration of a slot."""
    users = [{"containerID": 0, "hostID": FIRST_HOST_USER + index * USERS_PER_SLOT, "size": USERS_PER_SLOT}]
    read_only = ["rbind", "ro", "nosuid", "nodev"]
    binds = {**{path: path for path in shown()}, **INSIDE}
    return {
        "ociVersion": "1.0.0",
        "root": {"path": str(root), "readonly": True},
        "hostname": "slot",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": COMMAND,
            "env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=64k"],
            },
            *(
                {"destination": place, "type": "bind", "source": source, "options": read_only}
                for place, source in binds.items()
            ),
        ],
        "linux": {
            "namespaces": [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
            ],
            "uidMappings": users,
            "gidMappings": users,
            "rootfsPropagation": "private",
            "maskedPaths": [],  # a masked /proc could not be mounted anew for a case
            "readonlyPaths": [],
        },
    }
