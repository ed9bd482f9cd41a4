"""Peak memory of the loss at one length: loss_memory.py LENGTH VOCABULARY HIDDEN

Prints the bytes that token_logprobs and its backward pass add, gradients of states and weight included, to a
process that holds hidden states, output weight and labels.
"""

import os
import resource
import sys

import torch

from k15.engines.megatron.token_logprobs import token_logprobs


def peak_bytes() -> int:
    """The most this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(length: int, vocabulary: int, hidden: int) -> None:
    """A warm-up of one token, then the whole sequence."""
    torch.set_num_threads(os.cpu_count() or 1)
    states = torch.empty(length, hidden).normal_(generator=torch.Generator().manual_seed(0))
    weight = torch.empty(vocabulary, hidden).normal_(std=0.02).requires_grad_()
    labels = torch.randint(vocabulary, (length,))
    states.requires_grad_()
    token_logprobs(
        torch.ones(1, hidden), torch.ones(8, hidden, requires_grad=True), labels[:1] % 8
    ).sum().backward()
    before = peak_bytes()
    token_logprobs(states, weight, labels, weights_L=torch.ones(length)).mean().backward()
    print(peak_bytes() - before)


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
