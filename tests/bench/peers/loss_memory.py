"""Peak memory of the loss at one length: loss_memory.py LENGTH VOCABULARY HIDDEN DTYPE

Prints the bytes that token_logprobs and its backward pass add, the gradient of the states included, to a
process that holds hidden states, labels, and the output weight with its gradient buffer, as a trainer does.
"""

import os
import resource
import sys

import torch

from k15.engines.megatron.token_logprobs import token_logprobs


def peak_bytes() -> int:
    """The most this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def output_weight(vocabulary: int, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    """A weight with the gradient buffer that Megatron's data-parallel wrapper gives it."""
    weight = torch.empty(vocabulary, hidden, dtype=dtype).normal_(std=0.02).requires_grad_()
    weight.main_grad = torch.zeros(vocabulary, hidden).fill_(0.0)  # written: it is in memory
    return weight


def main(length: int, vocabulary: int, hidden: int, dtype: torch.dtype) -> None:
    """A warm-up of one token, then the whole sequence."""
    torch.set_num_threads(os.cpu_count() or 1)
    states = torch.empty(length, hidden, dtype=dtype).normal_(generator=torch.Generator().manual_seed(0))
    weight = output_weight(vocabulary, hidden, dtype)
    labels = torch.randint(vocabulary, (length,))
    states.requires_grad_()
    token_logprobs(
        torch.ones(1, hidden, dtype=dtype), output_weight(8, hidden, dtype), labels[:1] % 8
    ).sum().backward()
    before = peak_bytes()
    token_logprobs(states, weight, labels, weights_L=torch.full((length,), 1 / length)).mean().backward()
    print(peak_bytes() - before)


if __name__ == "__main__":
    length, vocabulary, hidden = map(int, sys.argv[1:4])
    main(length, vocabulary, hidden, getattr(torch, sys.argv[4]))
