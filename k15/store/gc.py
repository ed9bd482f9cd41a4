"""The sweep: orphaned attempts, uploads and finished stages' rounds always, stages only where asked to.

Safe beside running stages: an attempt is garbage only where no manifest, round or step checkpoint names it,
no live lease covers its key, and it is older than the grace. What a stage at work reads is kept, and all
upstream of it. Step checkpoints and journals of stages that are done are garbage; where asked which stages
to keep, also those that no stage at work and no run still going will go on from. Cached tokens, which are
made again where they are missed, go at CACHE_AGE_S, or with stages that are swept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from k15.store.artifact import Store, manifest_path
from k15.store.job import Job
from k15.store.lease import read_lease
from k15.store.manifest import InputRef, Manifest
from k15.store.objects import ObjectInfo
from k15.store.runs import RunState, run_records
from k15.store.steps import decode_step
from k15.store.tokens import FOLDER as TOKENS

GRACE_S = 3600.0
CACHE_AGE_S = 30 * 86400.0
FOLDERS = ("attempts/", "jobs/", "rounds/", "steps/", "phases/", "raw/", "leases/", TOKENS)
UNDER_WAY = ("steps/", "phases/")  # what a stage at work has made of a step or a round
RESUMED = ("rounds/", "steps/", "phases/")  # where a stage that is not done leaves what it goes on from


@dataclass
class Garbage:
    """What a sweep removed, or (dry_run) would remove."""

    dry_run: bool
    stages: list[str] = field(default_factory=list)  # keys
    attempts: list[str] = field(default_factory=list)  # <key>/<uuid>
    others: list[str] = field(default_factory=list)  # paths of jobs, rounds, steps, raw files, leases, tokens
    num_objects: int = 0
    num_bytes: int = 0
    num_uploads: int = 0  # unfinished multipart uploads


@dataclass(frozen=True)
class _Survey:
    """The store as one pass found it: first the listings, then the leases, then what counts."""

    listed: dict[str, list[ObjectInfo]]  # by folder
    live: frozenset[str]  # keys under a live lease
    manifests: dict[str, Manifest]
    going: frozenset[str]  # keys of the runs still going
    young: datetime  # objects after this moment are never garbage

    def old(self, infos: Iterable[ObjectInfo], *, more_s: float = 0.0) -> list[ObjectInfo]:
        """Those before the grace, by `more_s` at least."""
        before = self.young - timedelta(seconds=more_s)
        return [info for info in infos if info.modified < before]

    def unfinished(self) -> frozenset[str]:
        """Keys of stages that are not done and have something to go on from."""
        begun = {_key_of(info.path) for folder in RESUMED for info in self.listed[folder]}
        return frozenset(begun - self.manifests.keys())


def gc(
    store: Store, keep: Sequence[str] | None = None, *, dry_run: bool = False, grace_s: float = GRACE_S
) -> Garbage:
    """Remove what nothing needs. With `keep` (URIs, keys or nodes) also finished stages that none of these,
    no run still going and no stage at work was made from."""
    survey = _survey(store, grace_s)
    steps = _steps(survey, swept_all=keep is not None)
    left = {name: [i for i in survey.listed[name] if i not in steps] for name in UNDER_WAY}
    survey = replace(survey, listed={**survey.listed, **left})
    kept = _kept(store, survey, keep)
    garbage = Garbage(dry_run, stages=sorted(survey.manifests.keys() - kept.keys()))
    rounds = _finished_rounds(survey)
    doomed = _attempts(store, survey, kept, rounds, garbage)
    others = [*steps, *_others(survey, kept, swept_all=keep is not None)]
    garbage.others = [info.path for info in [*rounds, *others]]
    garbage.num_objects = len(garbage.stages) + len(doomed) + len(garbage.others)
    garbage.num_bytes = sum(info.size for info in [*doomed, *rounds, *others])
    uploads = store.objects.multiparts("attempts/", grace_s)
    stale = [path for path, _ in uploads if _key_of(path) not in survey.live]
    garbage.num_uploads = len(stale)
    if not dry_run:
        # First what names the rest; of rounds the newest first, so that those left are a beginning.
        store.objects.delete([*(manifest_path(key) for key in garbage.stages), *(i.path for i in steps)])
        store.objects.delete([info.path for info in reversed(rounds)])
        store.objects.delete([info.path for info in [*doomed, *others]])
        for path in stale:
            store.objects.abort_multiparts(path, grace_s)
    return garbage


def _survey(store: Store, grace_s: float) -> _Survey:
    # The order matters: a lease that ended before it was read has its manifest in place when those are read.
    listed = {folder: store.objects.list(folder) for folder in FOLDERS}
    leases = {info.path: info.path.split("/")[1].removesuffix(".json") for info in listed["leases/"]}
    live = frozenset(key for key in leases.values() if _is_live(store, key))
    manifests = {manifest.key: manifest for manifest in store.manifests()}
    going = {
        node.key for run in run_records(store) if run.state is RunState.RUNNING for node in run.nodes.values()
    }
    young = datetime.now(UTC) - timedelta(seconds=grace_s)
    return _Survey(listed, live, manifests, frozenset(going), young)


def _is_live(store: Store, key: str) -> bool:
    found = read_lease(store.objects, key)
    return found is not None and not found[0].lapsed(found[1].age_s)


def _kept(store: Store, survey: _Survey, keep: Sequence[str] | None) -> dict[str, Manifest]:
    if keep is None:
        return survey.manifests
    roots = [store.find(text).key for text in keep] + list(survey.going)
    for key, ref in _job_inputs(store, survey):
        roots += [key, ref.key]
    roots += [m.key for m in survey.manifests.values() if _is_young(m, survey.young)]
    kept: dict[str, Manifest] = {}
    while roots:
        key = roots.pop()
        if key in survey.manifests and key not in kept:
            kept[key] = survey.manifests[key]
            roots += [ref.key for ref in kept[key].inputs.values() if not ref.raw]
    return kept


def _job_inputs(store: Store, survey: _Survey) -> list[tuple[str, InputRef]]:
    """What stages at work, or with something to go on from, read: (their key, input)."""
    wanted = survey.live | survey.unfinished()
    found = []
    for info in survey.listed["jobs/"]:
        if _key_of(info.path) in wanted:
            job: Job = store.job(store.objects.uri(info.path))
            found += [(job.key, ref) for ref in job.inputs.values()]
    return found


def _finished_rounds(survey: _Survey) -> list[ObjectInfo]:
    """The rounds of stages that are done: all of a stage or none, for a rerun goes on from what there is."""
    listed = survey.listed["rounds/"]
    young = {_key_of(info.path) for info in listed if info.modified >= survey.young}
    swept = survey.manifests.keys() - survey.live - young
    return [info for info in listed if _key_of(info.path) in swept]


def _attempts(
    store: Store, survey: _Survey, kept: dict[str, Manifest], swept: list[ObjectInfo], garbage: Garbage
) -> list[ObjectInfo]:
    """The objects of attempts that no manifest names, and no round but those that are `swept`."""
    named = {(manifest.key, manifest.attempt) for manifest in kept.values()}
    rounds = {_key_of(info.path) for info in survey.listed["rounds/"]}
    for key in rounds - {_key_of(info.path) for info in swept}:
        named |= {(record.key, record.attempt) for record in store.rounds(key)}
    steps = store.objects.get_many([info.path for info in survey.listed["steps/"]])
    records = [decode_step(data, path, store.objects) for path, data in steps.items()]
    named |= {(record.key, record.attempt) for record in records}
    doomed = []
    for info in survey.old(survey.listed["attempts/"]):
        key, attempt = info.path.split("/")[1:3]
        if (key, attempt) not in named and key not in survey.live:
            doomed.append(info)
    garbage.attempts = sorted({"/".join(info.path.split("/")[1:3]) for info in doomed})
    return doomed


def _steps(survey: _Survey, *, swept_all: bool) -> list[ObjectInfo]:
    """Checkpoints and journals of stages that are done; where stages are swept, also those nobody needs."""
    waited_for = survey.live if swept_all else survey.live | survey.unfinished()
    waited_for |= survey.going - survey.manifests.keys()
    listed = [info for name in UNDER_WAY for info in survey.listed[name]]
    return [info for info in survey.old(listed) if _key_of(info.path) not in waited_for]


def _others(survey: _Survey, kept: dict[str, Manifest], *, swept_all: bool) -> list[ObjectInfo]:
    """Jobs of stages that are done; and where stages are swept too, their raw files and leases."""
    busy = survey.live | survey.unfinished()
    doomed = [info for info in survey.old(survey.listed["jobs/"]) if _key_of(info.path) not in busy]
    if not swept_all:
        return doomed + survey.old(survey.listed[TOKENS], more_s=CACHE_AGE_S)
    doomed += survey.old(survey.listed[TOKENS])
    alive = kept.keys() | busy
    doomed += [info for info in survey.old(survey.listed["leases/"]) if _key_of(info.path) not in alive]
    raw = {ref.key for manifest in kept.values() for ref in manifest.inputs.values() if ref.raw}
    if not busy:  # a stage at work may read a raw file that no manifest names yet
        doomed += [info for info in survey.old(survey.listed["raw/"]) if info.path.split("/")[1] not in raw]
    return doomed


def _is_young(manifest: Manifest, young: datetime) -> bool:
    ended = manifest.provenance.ended
    return bool(ended) and datetime.fromisoformat(ended) > young


def _key_of(path: str) -> str:
    return path.split("/")[1].removesuffix(".json")
