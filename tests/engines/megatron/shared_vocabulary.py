"""Each rank has half of the vocabulary; started by torchrun. Prints "equal" for every case that is."""

import torch
import torch.distributed as dist

from k15.engines.megatron.token_logprobs import token_logprobs
from tests.engines.megatron.test_token_logprobs import ROW_BYTES, L, V, plain, problem, results


def main() -> None:
    """Values and gradients against the plain ones, kept, worked out again, and made in the forward pass."""
    dist.init_process_group("gloo")
    rank, coefficients = dist.get_rank(), torch.linspace(-2, 3, L)
    expected = results(plain, coefficients)
    half = slice(rank * V // 2, (rank + 1) * V // 2)
    for chunk_bytes in (1 << 20, 4 * ROW_BYTES):
        for weights in (None, coefficients):
            states, weight, labels = problem()
            part = weight.detach()[half].clone().requires_grad_()
            values = token_logprobs(
                states, part, labels, group=dist.group.WORLD, weights_L=weights, chunk_bytes=chunk_bytes
            )
            (values * coefficients).sum().backward()
            assert states.grad is not None
            dist.all_reduce(states.grad)
            torch.testing.assert_close(values.detach(), expected[0], rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(states.grad, expected[1], rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(part.grad, expected[2][half], rtol=1e-5, atol=1e-4)
            print("equal", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
