"""A service as a child process: started, watched, stopped."""

import json
import os
import secrets
import selectors
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from k15.engines.service.settings import TOKEN_VARIABLE, WATCH_VARIABLE, SamplerSettings, TrainerSettings
from k15.engines.vllm.environment import environment

LOG_LINES = 15  # of a dead service's log, in the error that reports it
STOP_GRACE_S = 5.0
POLL_S = 0.25
BAD_INPUT = 2  # exit code
TORCHRUN = ("RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


class Service:
    """A child process that serves one engine. It ends when this process does, by whatever cause."""

    ours = True

    def __init__(self, module: str, process: "subprocess.Popen[bytes]", token: str, log_path: Path) -> None:
        self.module = module
        self.process = process
        self.token = token
        self.log_path = log_path
        self.host, self.port = "127.0.0.1", 0
        self.session = secrets.token_hex(8)
        self._why = ""

    @classmethod
    def launch(
        cls,
        module: str,
        config: Mapping[str, Any],
        *,
        log_path: Path,
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        token: str = "",
        without: Collection[str] = (),
    ) -> Self:
        """Start `python -m module --config FILE` at once; `env` is laid over this process's variables,
        those `without` left out.

        The configuration and the log lie at `log_path` (suffix .json and as given). Without a `token` it gets
        one of its own.
        """
        config_path = log_path.with_suffix(".json")
        config_path.write_text(json.dumps(dict(config)))
        token = token or secrets.token_urlsafe(32)
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [python, "-m", module, "--config", str(config_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={
                    **{name: value for name, value in os.environ.items() if name not in without},
                    "PYTHONUNBUFFERED": "1",
                    **(env or {}),
                    TOKEN_VARIABLE: token,
                    WATCH_VARIABLE: "1",
                },
            )
        return cls(module, process, token, log_path)

    @classmethod
    def start(
        cls, module: str, config: Mapping[str, Any], *, deadline_s: float = 300.0, **options: Any
    ) -> Self:
        """`launch`, then `wait_ready`."""
        service = cls.launch(module, config, **options)
        service.wait_ready(deadline_s=deadline_s)
        return service

    def wait_ready(self, *, deadline_s: float = 300.0) -> Self:
        """Wait until it serves.

        ValueError: it refused its settings. ConnectionError: it died. TimeoutError past the deadline.
        Each of them ends it.
        """
        end_s = time.monotonic() + deadline_s
        stdout = self.process.stdout
        assert stdout is not None
        os.set_blocking(stdout.fileno(), False)
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if selector.select(POLL_S):
                    line += (chunk := stdout.read() or b"")
                    if not chunk:
                        raise self._give_up(self._refusal())
                elif time.monotonic() > end_s:
                    raise self._give_up(TimeoutError(f"{self.module} was not ready after {deadline_s:.0f} s"))
        self.port = int(line.decode().strip().removeprefix("ready port="))
        return self

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def explain_death(self) -> str:
        """The service's name, exit code and last log lines."""
        try:
            code = self.process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            return f"{self.module} (pid {self.process.pid}) broke off a call; its log:\n{self.last_lines()}"
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        who = f"{self.module} (pid {self.process.pid})"
        if self._why:
            how = f"was ended: {self._why}"
        return f"{who} {how}; its last lines ({self.log_path}):\n{self.last_lines()}"

    def last_lines(self) -> str:
        """The end of its log."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def stop(self, why: str = "") -> int:
        """End it: politely, then by force. Returns the exit code; a dead one is no error."""
        if self.alive:
            self._why = why
        for end in (self.process.terminate, self.process.kill):
            if self.process.poll() is None:
                end()
            try:
                self.process.wait(STOP_GRACE_S)
                break
            except subprocess.TimeoutExpired:
                continue
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _refusal(self) -> Exception:
        explanation = self.explain_death()
        return ValueError(explanation) if self.process.poll() == BAD_INPUT else ConnectionError(explanation)

    def _give_up(self, error: Exception) -> Exception:
        self.stop()
        return error


def launch_sampler(
    settings: SamplerSettings,
    *,
    log_path: Path,
    python: str = sys.executable,
    token: str = "",
    variables: Mapping[str, str] | None = None,
) -> Service:
    """Start a sampler service without waiting for it; `variables` come over those its engine needs."""
    env = environment(device=settings.device, threads=settings.threads) | dict(variables or {})
    return Service.launch(
        "stages.sampler",
        settings.resolved(),
        log_path=log_path,
        python=python,
        env=env,
        token=token,
        without=[name for name in os.environ if name.startswith(TORCHRUN)],  # the trainer's ranks, not vLLM's
    )


def launch_trainer(settings: TrainerSettings, *, log_path: Path, python: str = sys.executable) -> Service:
    """Start a trainer service without waiting for it."""
    env = {"OMP_NUM_THREADS": str(settings.threads)}
    return Service.launch("stages.trainer", settings.resolved(), log_path=log_path, python=python, env=env)
