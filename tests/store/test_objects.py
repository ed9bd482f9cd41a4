"""Objects on a real S3 server: races, streamed writes, and errors that say what to do."""

import asyncio
import gc
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from k15.store.artifact import Store
from k15.store.objects import Credentials, Objects, StoreError, StoreSettings, StoreUnreachable
from tests.s3 import s3_server

pytestmark = pytest.mark.services

KILLED_WRITER = """
import os, sys
from k15.store.objects import Objects
with Objects.from_environment(os.environ).writer("attempts/key/one/big") as stream:
    stream.write(bytes(20 * 2**20))
    print("part sent", flush=True)
    sys.stdin.read()
"""


def test_one_of_racing_conditional_puts_wins(store: Store, s3_environment: dict[str, str]) -> None:
    def put(number: int) -> bool:
        return writers[number % 4].put_if_absent("race", f"writer {number}".encode())

    writers = [Objects.from_environment(s3_environment) for _ in range(4)]
    for _ in range(2):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(put, range(8)))
        assert sum(won) == 1
        assert store.objects.get("race") == f"writer {won.index(True)}".encode()
        store.objects.delete(["race"])


def test_a_store_collected_inside_a_running_loop_ends_quietly(
    s3_environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def elsewhere() -> None:
        objects = Objects.from_environment(s3_environment)
        await asyncio.to_thread(objects.put, "a", b"1")
        del objects
        gc.collect()
        await asyncio.sleep(0.3)

    with caplog.at_level(logging.ERROR):
        asyncio.run(elsewhere())
        gc.collect()
    assert caplog.text == ""


def test_a_repeated_put_of_the_same_bytes_has_won(store: Store) -> None:
    assert store.objects.put_if_absent("a", b"mine")
    assert store.objects.put_if_absent("a", b"mine")
    assert not store.objects.put_if_absent("a", b"theirs")


def test_put_if_match_replaces_one_version_only(store: Store) -> None:
    store.objects.put("a", b"1")
    first = store.objects.version("a")
    assert store.objects.put_if_match("a", b"2", first.etag)
    assert not store.objects.put_if_match("a", b"3", first.etag)
    assert not store.objects.put_if_match("absent", b"3", first.etag)
    assert store.objects.get("a") == b"2"
    assert 0 <= store.objects.version("a").age_s < 60


@pytest.mark.parametrize("size", [0, 1, 2**20, 40 * 2**20 + 7])
def test_streamed_writes_come_back_whole(store: Store, size: int) -> None:
    data = os.urandom(min(size, 2**16)) * (size // 2**16 + 1)
    data = data[:size]
    with store.objects.writer("big") as stream:
        for start in range(0, size, 2**20):
            stream.write(data[start : start + 2**20])
    assert (stream.size, stream.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert b"".join(store.objects.chunks("big", size)) == data


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    with pytest.raises(KeyError), store.objects.writer("big") as stream:
        stream.write(bytes(20 * 2**20))
        raise KeyError
    assert not store.objects.exists("big")
    assert not store.objects.multiparts("", 0)


def test_the_upload_of_a_killed_writer_is_aborted_once_it_is_old(
    store: Store, s3_environment: dict[str, str]
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER],
        env=os.environ | s3_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with writer:
        assert writer.stdout and writer.stdout.readline() == b"part sent\n"
        writer.send_signal(signal.SIGKILL)
    assert store.objects.list("attempts/") == []
    assert store.objects.abort_multiparts("attempts/", 3600) == 0
    assert store.objects.abort_multiparts("attempts/", 0) == 1
    assert store.objects.abort_multiparts("attempts/", 0) == 0


def test_listing_and_deleting_go_past_a_page(store: Store) -> None:
    paths = [f"many/{number:04d}" for number in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: store.objects.put(path, b"."), paths))
    store.objects.put("manyother", b".")
    assert [info.path for info in store.objects.list("many/")] == paths
    assert store.objects.get_many(["many/0000", "many/absent"]) == {"many/0000": b"."}
    store.objects.delete(paths)
    assert store.objects.list("many/") == []
    assert store.objects.exists("manyother")


def test_prefixes_do_not_see_each_other(store: Store, s3_environment: dict[str, str]) -> None:
    store.objects.put("a", b"1")
    other = Objects.from_environment(s3_environment | {"K15_S3_PREFIX": "elsewhere"})
    assert not other.exists("a")
    assert store.objects.uri("a") == f"s3://k15-test/{s3_environment['K15_S3_PREFIX']}/a"


def test_an_absent_object_is_named(store: Store) -> None:
    with pytest.raises(FileNotFoundError, match=r"s3://k15-test/test/.*/absent at http://127.0.0.1"):
        store.objects.get("absent")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, StoreError, "refused .*check AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, StoreError, "refused .*check AWS_ACCESS_KEY_ID"),
        ({"K15_S3_ENDPOINT": "http://127.0.0.1:9"}, StoreUnreachable, "127.0.0.1:9: no answer.*make up"),
        ({"K15_S3_BUCKET": "No_Bucket"}, StoreError, "No_Bucket"),
    ],
)
def test_check_says_what_is_wrong_and_what_to_do(
    s3_environment: dict[str, str], changes: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Objects.from_environment(s3_environment | changes).check()


@pytest.mark.parametrize(
    "missing", [("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("AWS_SECRET_ACCESS_KEY",)]
)
def test_missing_keys_are_named(
    s3_environment: dict[str, str], missing: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    given = {name: value for name, value in s3_environment.items() if name not in missing}
    with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        Objects.from_environment(given).check()


def test_check_of_writes_leaves_nothing(store: Store) -> None:
    store.objects.check(writes=True)
    assert store.objects.list("") == []


def test_readers_pass_the_check_but_not_that_of_writes(tmp_path: Path) -> None:
    identities = [
        {"name": name, "actions": actions, "credentials": [{"accessKey": name, "secretKey": name * 2}]}
        for name, actions in (("owner-of-all", ["Admin"]), ("only-a-reader", ["Read", "List"]))
    ]
    config = tmp_path / "identities.json"
    config.write_text(json.dumps({"identities": identities}))
    with s3_server(tmp_path / "seaweed", f"-s3.config={config}") as server:
        keys = {"AWS_ACCESS_KEY_ID": "only-a-reader", "AWS_SECRET_ACCESS_KEY": "only-a-reader" * 2}
        reader = Objects.from_environment(server.environment | keys)
        reader.check()
        with pytest.raises(StoreError, match=r"attempts/probe/.* refused .*check AWS_ACCESS_KEY_ID"):
            reader.check(writes=True)


def test_check_creates_the_bucket_of_the_embedded_store(s3_environment: dict[str, str]) -> None:
    objects = Objects.from_environment(s3_environment | {"K15_S3_BUCKET": "k15-fresh"})
    objects.check()
    objects.put("a", b"1")
    assert objects.get("a") == b"1"


@pytest.mark.parametrize("endpoint", ["", "localhost:8333", "ftp://x"])
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"K15_S3_ENDPOINT=.*make up"):
        StoreSettings.from_environment({"K15_S3_ENDPOINT": endpoint})


def test_secrets_are_not_printed(s3_environment: dict[str, str]) -> None:
    credentials = Credentials.from_environment(s3_environment)
    settings = StoreSettings.from_environment(s3_environment)
    assert s3_environment["AWS_SECRET_ACCESS_KEY"] not in f"{credentials!r} {settings!r}"


def test_a_full_store_asks_for_space(tmp_path: Path) -> None:
    with s3_server(tmp_path, "-volume.max=8", "-master.volumeSizeLimitMB=1") as server:
        objects = Objects.from_environment(server.environment)
        with pytest.raises(StoreError, match=r"the local store cannot write; free disk space"):
            for number in range(100):
                objects.put(f"file-{number}", os.urandom(2**20))
                time.sleep(0.1)
