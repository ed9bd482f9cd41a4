"""One seed for each response of a run, so that no two of them share noise."""

SEEDS_PER_RUN, MAX_SEED = 2**40, 2**62


def response_seed(run_seed: int, number: int) -> int:
    """The seed of the run's response `number` (0, 1, …); a request's samples take those that follow its own.

    Runs of unlike seeds share none before 2^40 responses.
    """
    return (run_seed * SEEDS_PER_RUN + number) % MAX_SEED
