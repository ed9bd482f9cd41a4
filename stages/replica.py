"""One sampler for RL stages on other hosts: serves until it is ended, one run after another.

    K15_SERVICE_TOKEN=… python -m stages.replica --model base:model --host 10.0.0.5 --etcd http://10.0.0.1:2379

The RL stage has the same token, and names the sampler in `resources.samplers`, or the etcd in
`resources.etcd`. The model is the one that stage starts from: a folder, or an artifact of the store that
K15_S3_* and AWS_* name.
Its weights come from the trainer, by the recipe's transport (tcp or rdma), before a token is sampled.

Calls carry the token, but travel unencrypted: give trainer and samplers a network of their own.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from k15.engines.megatron.checkpoint import read_config
from k15.engines.service.process import BAD_INPUT, Service, launch_sampler
from k15.engines.service.settings import TOKEN_VARIABLE, SamplerSettings
from k15.store.artifact import Store

FAULT = 1  # exit code
POLL_S = 0.5

log = logging.getLogger("stages.replica")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Exit code 0 when ended by SIGTERM or Ctrl-C, 2 for bad input, 1 where the sampler died."""
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="k15-replica-") as scratch:
            serve(args, environment, Path(scratch))
    except KeyboardInterrupt:
        log.info("ended")
    except ValueError as error:
        log.error("%s", error)
        return BAD_INPUT
    except (ConnectionError, TimeoutError) as error:
        log.error("%s", error)
        return FAULT
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="python -m stages.replica",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--model", required=True, help="a folder, or an artifact: node:part, or s3://…")
    made.add_argument("--host", default="127.0.0.1", help="this host as others reach it (default 127.0.0.1)")
    made.add_argument("--port", type=int, default=0, help="default: one that is free")
    made.add_argument("--etcd", default="", help="http://host:2379, where it lists itself")
    made.add_argument("--pool", default="default", help="under this name (resources.sampler_pool)")
    made.add_argument("--transport", choices=("tcp", "rdma"), default="tcp", help="of weights (default tcp)")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    made.add_argument("--threads", type=int, default=1, help="of the CPU (default 1)")
    made.add_argument("--max-tokens", type=int, default=0, help="prompt and response; default: the context")
    made.add_argument("--max-num-seqs", type=int, default=512, help="responses at a time (default 512)")
    made.add_argument(
        "--kv-cache-gb", type=float, default=0.25, help="keys and values, on CPU (default 0.25)"
    )
    made.add_argument("--tensor", type=int, default=1, help="GPUs, or processes, that share it (default 1)")
    made.add_argument(
        "--memory-share", type=float, default=0.85, help="of each GPU: weights and cache (default 0.85)"
    )
    return made


def serve(args: argparse.Namespace, environment: Mapping[str, str], scratch: Path) -> None:
    """Start the sampler, list it, and watch it; ConnectionError where it died."""
    token = environment.get(TOKEN_VARIABLE, "")
    if not token:
        raise ValueError(f"set {TOKEN_VARIABLE} to a secret that the RL stage's environment has too")
    model_dir = model(args.model, environment, scratch)
    settings = SamplerSettings.parse(
        {
            "model_dir": str(model_dir),
            "version": -1,
            "listen": args.host,
            "port": args.port,
            "host": args.host,
            "transport": args.transport,
            "device": args.device,
            "dtype": args.precision,
            "threads": args.threads,
            "max_model_len": args.max_tokens or int(read_config(model_dir)["max_position_embeddings"]),
            "max_num_seqs": args.max_num_seqs,
            "kv_cache_bytes": int(args.kv_cache_gb * 2**30),
            "tensor": args.tensor,
            "memory_share": args.memory_share,
        },
        where="options",
    )
    with ExitStack() as stack:
        service = stack.enter_context(
            launch_sampler(settings, log_path=scratch / "sampler.log", token=token)
        ).wait_ready()
        url = f"http://{args.host}:{service.port}"
        if args.etcd:
            # Its library is needed where etcd is used alone.
            from k15.engines.directory import SamplerDirectory  # noqa: PLC0415

            stack.enter_context(SamplerDirectory(args.etcd, args.pool).announced(url))
        sys.stdout.write(f"replica={url}\n")
        sys.stdout.flush()
        watch(service)


def watch(service: Service) -> None:
    """Until it dies."""
    while service.alive:
        time.sleep(POLL_S)
    raise ConnectionError(service.explain_death())


def model(name: str, environment: Mapping[str, str], scratch: Path) -> Path:
    """The folder of a model; ValueError where there is none."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    store = Store.from_environment(environment)
    return store.open(store.find(name)).download(scratch / "model")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
