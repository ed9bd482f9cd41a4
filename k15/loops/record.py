"""What a round leaves behind: the state after it, its figures, and a row for every group and response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from k15.loops.buffer import Draw
from k15.loops.figures import examples_of, replica_figures, rollout_figures, update_figures
from k15.loops.gate import Compared
from k15.loops.history import Fate, Played, Row, segment_rows
from k15.loops.judging import num_judged, tally
from k15.loops.replay import JudgedGroup, ReplayState
from k15.loops.rollout import Actors, Journal, Rolled, Rollout
from k15.loops.stopping import stop_reason, with_pass_rate
from k15.recipes.rl import RlRecipe
from k15.records import Group, Prompt, SampleStats, UpdateStats
from k15.store.rollouts import GroupRow, ResponseRow


@dataclass(frozen=True)
class Made:
    """What a round did."""

    number: int
    version: int  # of the policy it sampled from
    rolled: Sequence[Rolled]
    finished: Sequence[JudgedGroup]
    drawn: Draw
    training: Sequence[Group]  # of drawn.trained
    stats: UpdateStats
    sampling: SampleStats  # of its phase
    fresh: Compared  # of a few of its new segments, before the update


def round_figures(made: Made, prompts: Mapping[str, Prompt]) -> Row:
    """A round's row in rounds.jsonl, but for its seconds."""
    new = [rolled.group.trajectories[sample] for rolled in made.rolled for sample in rolled.new]
    return {
        "round": made.number,
        "engine_tokens": made.sampling.num_tokens,
        "sampled_tokens": sum(len(trajectory.segments[-1].token_ids) for trajectory in new),
        "prefix_hit_share": made.sampling.prefix_hit_share,
        **replica_figures(made.sampling),
        **rollout_figures([rolled.group for rolled in made.rolled], made.finished, prompts),
        **update_figures(made.training, made.drawn.trained, made.stats, version=made.version),
        **mismatch_figures(made.fresh.and_also(compared(made.stats))),
    }


def compared(stats: UpdateStats) -> Compared:
    """What an update compared of the tokens it trained on."""
    return Compared(int(stats.extra.get("mismatch_tokens", 0)), stats.mismatch_mean, stats.mismatch_max)


def mismatch_figures(both: Compared) -> Row:
    """Of trainer and sampler, over all tokens compared in a round; 0 tokens: nothing was sampled in it."""
    return {
        "mismatch_mean": both.mean,
        "mismatch_max": both.largest,
        "mismatch_tokens": float(both.tokens),
    }


def state_after(recipe: RlRecipe, taken: ReplayState, made: Made, row: Row, *, seconds: float) -> ReplayState:
    """The state the next round starts from; `taken` is the one before with this round's prompts taken."""
    judged = any(num_judged(group.verdicts) for group in made.finished)
    after = replace(
        taken,
        next_round=made.number + 1,
        policy_version=made.number + 1 if made.training else made.version,
        success=tally(taken.success, made.finished),
        open_groups=tuple(rolled.group for rolled in made.rolled if not rolled.verdicts),
        buffer=made.drawn.kept,
        sampled_tokens=taken.sampled_tokens + int(row["sampled_tokens"]),
        seconds=taken.seconds + seconds,
    )
    if judged:
        after = with_pass_rate(after, row["pass_rate"], recipe.stop_without_gain_rounds)
    return replace(after, stopped=stop_reason(recipe, after))


def lost_tokens(made: Made, journal: Journal, rollout: Rollout, *, budget: int) -> list[dict[str, Any]]:
    """What was sampled in a phase and kept by nobody, with the reason; `budget` is that of one response.

    Of a process that was killed nobody can say how many tokens, but how many at most.
    """
    moved, left = journal.moved_before + made.sampling.num_moved, made.sampling.num_left
    who = "; ".join(made.sampling.lost) or "by a process that ended later"
    found = [
        (rollout.asked_again, "the process ended before they were stored; sampled again"),
        (moved, f"replicas were lost; sampled again by another ({who})"),
        (left, f"replicas were lost, and the deadline came before another one had room ({who})"),
    ]
    return [
        {"reason": reason, "responses": count, "tokens_at_most": count * budget, "tries": journal.tries}
        for count, reason in found
        if count
    ]


def recorded(
    actors: Actors, made: Made, after: ReplayState, row: Row, *, lost: Sequence[dict[str, Any]]
) -> Played:
    """The round as it is committed."""
    return Played(
        number=made.number,
        version=made.version,
        after=after,
        row=row,
        segments=tuple(
            segment
            for rolled in made.rolled
            for segment in segment_rows(rolled.group, rolled.new, made.number, actors.prompts)
        ),
        responses=tuple(response for group in made.finished for response in response_rows(actors, group)),
        groups=tuple(group_rows(made)),
        trained=tuple((group.rollouts.number, group.finished_round) for group in made.drawn.trained),
        updated=bool(made.stats.num_updates),
        last=after.next_round == actors.recipe.rounds or bool(after.stopped),
        lost=tuple(lost),
        examples=examples_of(made.finished, actors.prompts, actors.decode),
    )


def response_rows(actors: Actors, group: JudgedGroup) -> list[ResponseRow]:
    """What came of each response of a finished group."""
    return [
        ResponseRow(
            group.rollouts.number,
            group.rollouts.prompt_id,
            trajectory.sample,
            str(verdict.status),
            verdict.reason,
            str(trajectory.segments[-1].end),
            len(trajectory.token_ids),
            len(trajectory.segments),
            actors.decode(trajectory.token_ids),
        )
        for trajectory, verdict in zip(group.rollouts.trajectories, group.verdicts, strict=True)
    ]


def group_rows(made: Made) -> list[GroupRow]:
    """Every group of the phase and of the buffer once, with what came of it in this round."""
    rows: dict[int, GroupRow] = {}

    def note(group: JudgedGroup, fate: Fate, reason: str = "", rewards: tuple[float, ...] = ()) -> None:
        of = group.rollouts
        place = (of.number, of.prompt_id, of.first_round, group.finished_round)
        rows[of.number] = GroupRow(*place, str(fate), reason, rewards)

    for group in made.finished:
        note(group, Fate.DROPPED, too_few(group))
    for group in made.drawn.kept:
        note(group, Fate.BUFFERED)
    for group in made.drawn.crowded_out:
        note(group, Fate.DROPPED, "the buffer is full")
    for group, trained in zip(made.drawn.trained, made.training, strict=True):
        uniform = len(set(trained.rewards)) == 1
        reason = "all rewards are equal" if uniform else ""
        note(group, Fate.UNIFORM if uniform else Fate.TRAINED, reason, trained.rewards)
    for rolled in made.rolled:
        if not rolled.verdicts:
            of, left = rolled.group, len(rolled.group.trajectories) - rolled.group.num_finished
            place = (of.number, of.prompt_id, of.first_round, -1)
            rows[of.number] = GroupRow(*place, str(Fate.OPEN), f"{left} unfinished", ())
    return [rows[number] for number in sorted(rows)]


def too_few(group: JudgedGroup) -> str:
    """Why a group cannot be trained on."""
    judged = num_judged(group.verdicts)
    reasons = sorted({verdict.reason for verdict in group.verdicts if verdict.reason})
    name = "an empty group" if not judged else "one judged response has no baseline"
    return f"{name}: {judged} of {len(group.verdicts)} judged ({'; '.join(reasons)})"
