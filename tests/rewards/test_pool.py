"""Hostile answers and killed processes: bounded in time and memory, and the next answer is judged."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from k15.ports import RewardPorts
from k15.records import Part, Prompt, Status
from k15.rewards import judging
from k15.rewards.pool import CPU_S, ComparisonPool

pytestmark = pytest.mark.engine
MEMORY_BYTES = 512 << 20
NESTED = 10**6

HOSTILE = {
    "tower of powers": r"\boxed{9^{9^{9}}}",
    "higher tower": r"\boxed{9^{9^{9^{9}}}}",
    "tower in plain text": "#### 9**9**9**9",
    "nested powers": r"\boxed{" + "2^{" * 150 + "2" + "}" * 150 + "}",
    "a million open braces": r"\boxed{" + "{" * NESTED,
    "a million nested braces": r"\boxed{" + "{" * NESTED + "1" + "}" * NESTED + "}",
    "many parentheses": r"\boxed{" + "(" * 400 + "1" + ")" * 400 + "}",
    "nested fractions": r"\boxed{" + r"\frac{1}{1+" * 60 + "1" + "}" * 60 + "}",
    "nested roots": r"\boxed{" + r"\sqrt{" * 120 + "2" + "}" * 120 + "}",
    "a megabyte of digits": "#### " + "9" * 2**20,
    "a megabyte of text": "so " * 350_000 + "#### 5",
    "a megabyte of boxes": r"\boxed{1}" * 120_000,
    "a megabyte of phrases": "the answer is " * 80_000,
    "a huge factorial": r"\boxed{(10^9)!}",
    "factorials of factorials": r"\boxed{((9!)!)!}",
    "a huge binomial": r"\boxed{\binom{10^9}{5 \cdot 10^8}}",
    "a huge sum": r"\boxed{\sum_{n=1}^{10^9} \frac{1}{n^2+n+1}}",
    "a huge product": r"\boxed{\prod_{n=1}^{10^8} (n+x)}",
    "an integral": r"\boxed{\int_0^1 e^{e^{e^{x^x}}} \sin(\cos(x^{x})) dx}",
    "a limit": r"\boxed{\lim_{x \to 0} \frac{\sin(x^{x^x}) - x^{\sin x}}{x^{x^{x}}}}",
    "a large expansion": r"\boxed{(a+b+c+d+e+f+g)^{999}}",
    "a huge exponent": "#### 1e999999999",
    "a huge decimal exponent": r"\boxed{1.0000001^{10^{12}}}",
    "a large matrix": r"\boxed{\begin{pmatrix}" + r"1&2\\" * 120 + r"\end{pmatrix}}",
    "zeros and surrogates": "#### \x00\ud7ff\ufffe",
    "a list of many": r"\boxed{" + ",".join(map(str, range(250))) + "}",
    "relations": r"\boxed{" + "<".join("x" * 200) + "}",
    "backslashes": r"\boxed{" + "\\" * 900 + "}",
    "dollars": r"\boxed{" + "$" * 900 + "}",
    "spaces and signs": r"\boxed{" + " -" * 450 + "1}",
}


def posed(reference: str) -> Prompt:
    return Prompt("p", (Part(kind="text", text="?"),), reference, "t", 0.5, "math")


@pytest.fixture(scope="module")
def pool():
    with ComparisonPool(1, memory_bytes=MEMORY_BYTES) as pool:
        pool.compare("1", "2")
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_ends_within_the_limit_and_the_next_is_judged(pool: ComparisonPool, name: str):
    judge = judging({"math"}, RewardPorts(equivalence=pool))
    before_s = cpu_s()
    verdict = judge(posed("1/2"), HOSTILE[name])
    assert verdict.status in (Status.WRONG, Status.UNJUDGED), verdict
    assert cpu_s() - before_s < 2 * (CPU_S + 1.0) + 2.0  # two tries, this process's own work beside them
    assert max(address_space_bytes()) <= MEMORY_BYTES
    assert judge(posed("1/2"), "#### 0.5").status is Status.CORRECT


def workers() -> list[psutil.Process]:
    """The processes that compare; what other tests have started is none of them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] * any("rewards.worker" in word for word in process.cmdline())
    return found


def cpu_s() -> float:
    """Of this process, of those that compare, and of what ended."""
    total = sum(os.times()[:4])
    for process in workers():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def address_space_bytes() -> list[int]:
    """Of every process that compares."""
    sizes = []
    for process in workers():
        with contextlib.suppress(psutil.NoSuchProcess):
            sizes.append(process.memory_info().vms)
    return sizes


def test_what_takes_too_long_is_killed_and_says_so(pool: ComparisonPool):
    verdict = pool.compare("1/2", r"9^{9^{9^{9}}}")
    assert verdict.status is Status.UNJUDGED and "timeout" in verdict.reason


def test_any_number_of_threads_may_ask_while_processes_are_killed():
    with ComparisonPool(2) as pool:
        pool.compare("1", "2")
        done = threading.Event()

        def kill():
            while not done.wait(0.2):
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        if "k15.rewards.worker" in " ".join(process.cmdline()):
                            process.kill()
                            break

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with ThreadPoolExecutor(8) as threads:
                verdicts = list(threads.map(lambda n: pool.compare(str(n % 7), "3.0"), range(400)))
        finally:
            done.set()
            killer.join()
    for number, verdict in enumerate(verdicts):
        if verdict.status is not Status.UNJUDGED:
            assert (verdict.status is Status.CORRECT) is (number % 7 == 3)
        else:
            assert "process" in verdict.reason
    assert any(verdict.status is Status.CORRECT for verdict in verdicts)


def test_closing_leaves_no_process():
    before = set(psutil.Process().children(recursive=True))
    pool = ComparisonPool(2)
    for _ in range(4):
        pool.compare("1", r"\frac{2}{2}")
    started = [process for process in psutil.Process().children(recursive=True) if process not in before]
    assert len(started) >= 3  # two that fork, and a child
    pool.close()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert all(
        process.status() == psutil.STATUS_ZOMBIE for process in alive
    )  # whoever adopts them reaps them


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "  ",
        r"\frac{1}{",
        r"\frac{1}{0}",
        r"\begin{pmatrix}1&2\\3\end{pmatrix}",
        "1, , 2",
        "9^{9^{9^{9}}}",
    ],
)
def test_a_reference_that_cannot_be_compared_is_refused(pool: ComparisonPool, reference: str):
    assert pool.refusal(reference)
