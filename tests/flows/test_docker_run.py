"""A run in containers: the keys of the process runtime, the image in every manifest, no secret anywhere."""

import json
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from flows.containers import connect
from tests.dockerd import IMAGE, Daemon, missing
from tests.flows.driver import Flow

pytestmark = [
    pytest.mark.control,
    pytest.mark.services,
    pytest.mark.skipif(bool(missing()), reason=missing() or "a daemon can be started"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


def test_a_run_in_containers(flow: Flow, docker_daemon: Daemon) -> None:
    code, processes = flow.run("--json", "--set=nodes.sft.recipe.steps=2")
    assert code == 0, processes
    keys = {name: node.key for name, node in flow.record().nodes.items()}
    prefix = f"{flow.environment['K15_S3_PREFIX']}-docker"
    own = {"K15_S3_PREFIX": prefix, "DOCKER_HOST": docker_daemon.host, "K15_IMAGE": IMAGE}
    inside = replace(flow, environment={**flow.environment, **own})
    code, printed = inside.run("--runtime", "docker", "--set=nodes.sft.recipe.steps=2")
    record = inside.record()
    assert "stage key=" in printed, printed  # the stages' own lines came through
    assert {name: node.key for name, node in record.nodes.items()} == keys, printed
    client = connect(inside.environment)
    image = client.images.get(IMAGE)
    manifests = [inside.store.manifest(key) for key in keys.values()]
    assert {made.provenance.image_digest for made in manifests if made} == {image.id}
    assert {made.provenance.launcher for made in manifests if made} == {"docker"}
    assert client.containers.list(all=True) == []

    secrets = [inside.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    assert all(len(text) > 15 for text in secrets)
    places = {
        "log": [printed, docker_daemon.log()],
        "store": list(stored(inside)),
        "mlflow": [json.dumps(tags(inside))],
        "prefect": [
            json.dumps(inside.flow_run(record.prefect_flow_run_id)),
            json.dumps(inside.tasks(record)),
        ],
        "image": list(layers(client)),
    }
    assert all(any(place) for place in places.values())
    found = [
        where for where, texts in places.items() for text in texts if any(one in text for one in secrets)
    ]
    assert found == []
    client.close()


def stored(flow: Flow) -> Iterator[str]:
    """Every object of the run's prefix: manifests, jobs, records, artifacts."""
    objects = flow.store.objects
    for info in objects.list(""):
        yield objects.get(info.path).decode("latin-1")


def tags(flow: Flow) -> object:
    """Everything MLflow answers about the run and its stages."""
    uri = flow.environment["MLFLOW_TRACKING_URI"]
    experiment = httpx.get(
        f"{uri}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": "k15"}, trust_env=False
    ).json()
    body = {"experiment_ids": [experiment["experiment"]["experiment_id"]], "max_results": 500}
    found = httpx.post(f"{uri}/api/2.0/mlflow/runs/search", json=body, trust_env=False).json()
    assert found["runs"]
    return found


def layers(client: object) -> Iterator[str]:
    """The image as `docker save` writes it: its configuration, history and every file of every layer."""
    with tempfile.TemporaryFile() as file:
        for chunk in client.images.get(IMAGE).save():  # type: ignore[attr-defined]
            file.write(chunk)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None:
                    yield content.read().decode("latin-1")
