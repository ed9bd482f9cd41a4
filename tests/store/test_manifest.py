"""Manifests on disk: those from before a field was added stay readable, to the byte."""

import json

import pytest

from k15.store.manifest import CorruptArtifact, Manifest

BEFORE_LICENSES = (  # as the code wrote it that did not know of licenses
    b'{"attempt":"a1","checksum":"190e22e8d92da81f1dcf676238523fec8c7b02d04ffedfc7b83db74f15aa7e03","c'
    b'ode":"","digest":"sha256:f36faeb4ab2d0cd210da1bf00a3fd2b08ef32ca9f2d0ae71aebeb983ffd9f766","file'
    b's":[{"path":"train/prompts.parquet","sha256":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd'
    b'cdcdcdcdcdcdcd","size":7}],"inputs":{"questions":{"digest":"sha256:ababababababababababababababa'
    b'bababababababababababababababababab","key":"abababababababababababababababababababababababababab'
    b'abababababab","part":"","raw":true}},"key":"0ee2d2448ff4458486d6610095f5162e7894e25c8a85a19b06c5'
    b'6b42ed896e9a","kind":"data","node":"data","provenance":{"code_digest":"","commit":"5f0c","dirty"'
    b':false,"ended":"","host":"then","image_digest":"","launcher":"","lock_digest":"","mlflow_run_id"'
    b':"","prefect_flow_run_id":"","prefect_task_run_id":"","run_id":"","seconds":0.0,"started":""},"r'
    b'ecipe":{"seed":3},"resources":{"cores":1},"schema_version":1,"summary":{"train":1.0},"version":1'
    b"}"
)


def test_a_manifest_from_before_a_field_is_whole_and_keeps_its_bytes():
    manifest = Manifest.decode(BEFORE_LICENSES, "s3://k15/stages/old/manifest.json")
    assert manifest.licenses == {}
    assert manifest.expected_key() == manifest.key
    assert manifest.encode() == BEFORE_LICENSES


def test_a_manifest_with_licences_comes_back_as_written():
    old = Manifest.decode(BEFORE_LICENSES, "old")
    new = old.model_copy(update={"licenses": {"questions": "MIT"}})
    data = new.encode()
    assert json.loads(data)["licenses"] == {"questions": "MIT"}
    assert Manifest.decode(data, "new").licenses == new.licenses
    assert new.expected_key() == old.key


def test_an_added_field_is_guarded_by_the_checksum():
    for damaged in (
        BEFORE_LICENSES.replace(b'"node"', b'"licenses":{"questions":"MIT"},"node"'),
        BEFORE_LICENSES.replace(b'"node"', b'"licenses":{},"node"'),
    ):
        with pytest.raises(CorruptArtifact, match="checksum"):
            Manifest.decode(damaged, "s3://k15/stages/old/manifest.json")
