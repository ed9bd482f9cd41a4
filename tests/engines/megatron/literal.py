"""An iteration of each objective, taken literally: a token at a time on Hugging Face's model, by autograd."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from k15.recipes.rl import PolicyUpdate
from k15.records import Group
from k15.records import Sequence as Row

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Update:
    """What an iteration came to: the weights, and the gradient of each of its updates."""

    weights: Named
    gradients: list[Named]


def token_logprobs(model: Any, row: Row) -> Tensor:
    """Of the row's loss tokens."""
    tokens = torch.tensor(row.token_ids)[None]
    logprobs = model(tokens[:, :-1]).logits[0].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
    return logprobs[torch.tensor(row.in_loss[1:])]


def literal_update(
    model: Any, groups: list[Group], settings: PolicyUpdate, *, lr: float, square_tokens: bool = False
) -> Update:
    """One iteration with torch's Adam, without clipping of gradients. `model` is left with its weights.

    `square_tokens` is the known wrong version of eq. 3, which squares each token's log-ratio.
    """
    with torch.no_grad():
        before = {row: token_logprobs(model, row) for group in groups for row in group.sequences}
    betas = (settings.adam_beta1, settings.adam_beta2)
    adam = torch.optim.AdamW(model.parameters(), betas=betas, eps=settings.adam_epsilon, weight_decay=0.0)
    gradients = []
    for _ in range(settings.inner_steps):
        for part in range(settings.minibatches):
            adam.zero_grad()
            chosen = groups[part :: settings.minibatches]
            for group in chosen:
                _of_group(model, group, before, settings, square_tokens).div(len(chosen)).backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
            adam.param_groups[0]["lr"] = lr * (settings.first_step_scale if len(gradients) == 1 else 1.0)
            adam.step()
    return Update({name: p.detach() for name, p in model.named_parameters()}, gradients)


def _of_group(
    model: Any, group: Group, before: dict[Row, Tensor], settings: PolicyUpdate, square_tokens: bool
) -> Tensor:
    """The group's loss: for omd the surrogate L / 2τ, which has the gradient of eq. 3, negated."""
    r = [float(reward) for reward in group.rewards]
    mean, best = sum(r) / len(r), [reward == max(r) > 0 for reward in r]
    std = (sum((reward - mean) ** 2 for reward in r) / len(r)) ** 0.5
    tau, total = settings.tau, torch.zeros(())
    b = mean if settings.baseline == "mean" else float(tau * torch.log(torch.tensor(r).div(tau).exp().mean()))
    for row, reward, is_best in zip(group.sequences, r, best, strict=True):
        now = token_logprobs(model, row)
        ratios = now - before[row]
        if settings.objective == "rest":
            total = total - is_best * now.sum() / max(1, sum(best))
        elif settings.objective == "grpo":
            advantage = (reward - mean) / (std or 1.0)
            clipped = ratios.exp().clamp(1 - settings.clip_ratio, 1 + settings.clip_ratio)
            gain = torch.minimum(ratios.exp() * advantage, clipped * advantage)
            divergence = (-ratios).exp() + ratios - 1
            total = total - (gain - settings.kl_weight * divergence).mean() / len(r)
        elif square_tokens:
            total = total + (-(reward - b) * ratios.sum() + tau / 2 * (ratios**2).sum()) / len(r)
        else:
            total = total + (reward - b - tau * ratios.sum()) ** 2 / (2 * tau) / len(r)
    return total
