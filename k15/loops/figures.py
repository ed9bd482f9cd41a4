"""A round's figures: what rounds.jsonl and MLflow hold of it."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from k15.loops.history import Row
from k15.loops.judging import judged_trajectories, num_judged
from k15.loops.replay import JudgedGroup, RolloutGroup
from k15.records import End, Group, Prompt, SampleStats, Status, Trajectory, UpdateStats

COMPUTE = ("rollout_s", "reward_s", "compare_s", "train_s")
PERCENTILES = (10, 50, 90, 99)
BANDS = 4  # of difficulty, equally wide
OLDEST = 4  # staleness: this many versions and more are one
EXAMPLES, SHOWN = 2, 4000  # responses of a round, characters of each


def rollout_figures(
    groups: Sequence[RolloutGroup], finished: Sequence[JudgedGroup], prompts: Mapping[str, Prompt]
) -> Row:
    """Of a phase: lengths and ends of the groups that finished, and how much is still open."""
    ended = [t for group in finished for t in group.rollouts.trajectories]
    lengths = sorted(len(t.token_ids) for t in ended)
    all_of_phase = [t for group in groups for t in group.trajectories]
    judged = sum(num_judged(group.verdicts) for group in finished)
    given_up = _share(ended, End.GIVEN_UP)
    return {
        "pass_rate": _pass_rate(finished),
        "tokens_mean": fmean(lengths) if lengths else 0.0,
        **{f"tokens_p{p}": float(percentile(lengths, p)) for p in PERCENTILES},
        "tokens_max": float(lengths[-1]) if lengths else 0.0,
        "num_finished_groups": len(finished),
        "num_open_groups": sum(not group.complete for group in groups),
        "share_cut": _share(ended, End.LENGTH),
        "share_repeated": _share(ended, End.REPEAT),
        "share_given_up": given_up,
        "share_unjudged": 1 - judged / len(ended) - given_up if ended else 0.0,
        "share_partial": sum(not t.finished for t in all_of_phase) / max(1, len(all_of_phase)),
        "unjudged": len(ended) - judged,
        **_pass_rates(finished, prompts),
    }


def replica_figures(stats: SampleStats) -> Row:
    """Of the samplers: how many took part, what the busiest one sampled of it all, who was lost."""
    return {
        "replicas": float(max(1, len(stats.shares))),
        "replicas_lost": float(len(stats.lost)),
        "responses_moved": float(stats.num_moved),
        "busiest_replica_share": max((share for _, share in stats.shares), default=1.0),
    }


def update_figures(
    training: Sequence[Group], trained: Sequence[JudgedGroup], stats: UpdateStats, *, version: int
) -> Row:
    """Of an update: rewards, the age of what it learnt from, and what the trainer measured."""
    rewards = [reward for group in training for reward in group.rewards]
    return {
        "reward": fmean(rewards) if rewards else 0.0,
        "num_groups": len(training),
        "num_mixed_groups": sum(len(set(group.rewards)) > 1 for group in training),
        "num_updates": stats.num_updates,
        "loss": stats.loss,
        "gradient_norm": stats.gradient_norm,
        "train_tokens": stats.num_tokens,
        **stats.extra,
        **staleness(trained, training, version=version),
    }


def staleness(trained: Sequence[JudgedGroup], training: Sequence[Group], *, version: int) -> Row:
    """Share of the loss tokens by how many versions ago they were sampled; the last bin is open."""
    tokens = [0] * (OLDEST + 1)
    for group, rows in zip(trained, training, strict=True):
        for trajectory, row in zip(judged_trajectories(group), rows.sequences, strict=True):
            start = len(trajectory.prompt_token_ids)
            for segment in trajectory.segments:
                end = start + len(segment.token_ids)
                tokens[min(OLDEST, version - segment.policy_version)] += sum(row.in_loss[start:end])
                start = end
    total = max(1, sum(tokens))
    shares = {f"staleness/{age}{'_or_more' * (age == OLDEST)}": n / total for age, n in enumerate(tokens)}
    return {**shares, "share_stale": sum(tokens[1:]) / total}


def timed(row: Row, seconds: Mapping[str, float]) -> Row:
    """The row with its seconds: speeds, each engine's idle share, and what is neither compute nor judging."""
    row = row | dict(seconds)
    wall = row["wall_s"]
    sampling, training = row.get("sampling_s", 0.0), row.get("train_s", 0.0)
    return row | {
        "rollout_tokens_per_s": row["engine_tokens"] / sampling if sampling else 0.0,
        "train_tokens_per_s": row["train_tokens"] / training if training else 0.0,
        "idle_sampler": max(0.0, 1 - sampling / wall),
        "idle_trainer": max(0.0, 1 - training / wall),
        "orchestration_s": wall - sum(row.get(name, 0.0) for name in COMPUTE),
    }


def percentile(ordered: Sequence[int], share: int) -> int:
    """The value at `share` % of a sorted list (nearest rank); 0 of an empty one."""
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)] if ordered else 0


def examples_of(
    finished: Sequence[JudgedGroup], prompts: Mapping[str, Prompt], decode: Callable[[Sequence[int]], str]
) -> tuple[dict[str, Any], ...]:
    """A few responses of the round, as people read them."""
    shown = []
    for group in finished[:EXAMPLES]:
        prompt, trajectory = prompts[group.rollouts.prompt_id], group.rollouts.trajectories[0]
        shown.append(
            {
                "prompt_id": prompt.id,
                "prompt": shortened("".join(part.text or f"[{part.kind}]" for part in prompt.parts)),
                "reference": shortened(prompt.reference),
                "response": shortened(decode(trajectory.token_ids)),
                "status": str(group.verdicts[0].status),
                "tokens": len(trajectory.token_ids),
                "segments": [
                    {"policy_version": s.policy_version, "tokens": len(s.token_ids), "end": str(s.end)}
                    for s in trajectory.segments
                ],
            }
        )
    return tuple(shown)


def shortened(text: str) -> str:
    """At most SHOWN characters of it, from both ends; the whole is in the tables."""
    left_out = len(text) - SHOWN
    if left_out <= 0:
        return text
    return f"{text[: SHOWN // 2]} [… {left_out} characters …] {text[-SHOWN // 2 :]}"


def _share(ended: Sequence[Trajectory], end: End) -> float:
    return sum(t.segments[-1].end is end for t in ended) / max(1, len(ended))


def _pass_rate(groups: Sequence[JudgedGroup]) -> float:
    scores = [v.score for group in groups for v in group.verdicts if v.status is not Status.UNJUDGED]
    return fmean(scores) if scores else 0.0


def _pass_rates(groups: Sequence[JudgedGroup], prompts: Mapping[str, Prompt]) -> Row:
    """By task and by band of difficulty, of those that something was judged of."""
    parts: dict[str, list[JudgedGroup]] = {}
    for group in groups:
        if num_judged(group.verdicts):
            prompt = prompts[group.rollouts.prompt_id]
            band = min(BANDS - 1, int(prompt.difficulty * BANDS))
            difficulty = f"difficulty_{band / BANDS:.2f}-{(band + 1) / BANDS:.2f}"
            parts.setdefault(f"pass_rate/{prompt.task}", []).append(group)
            parts.setdefault(f"pass_rate/{difficulty}", []).append(group)
    return {name: _pass_rate(members) for name, members in sorted(parts.items())}
