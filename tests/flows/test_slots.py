"""Core slots: never more than the capacity, first come first served, nobody waits after a stop."""

import threading
import time

import pytest

from flows.slots import CoreSlots, Stopped

pytestmark = pytest.mark.control


def in_threads(work: list[threading.Thread]) -> None:
    for thread in work:
        thread.start()
    for thread in work:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_no_more_than_the_capacity_is_held_at_once() -> None:
    slots = CoreSlots(3)
    held, peak, lock = 0, 0, threading.Lock()

    def work(cores: int) -> None:
        nonlocal held, peak
        with slots.hold(cores):
            with lock:
                held += cores
                peak = max(peak, held)
            time.sleep(0.005)
            with lock:
                held -= cores

    in_threads([threading.Thread(target=work, args=(1 + number % 3,)) for number in range(30)])
    assert peak <= 3 and held == 0


def test_more_cores_than_there_are_take_the_whole_machine() -> None:
    slots = CoreSlots(2)
    entered = []
    for cores in (64, 2):
        with slots.hold(cores):
            entered.append(cores)
    assert entered == [64, 2]


def test_a_wide_stage_is_not_overtaken() -> None:
    slots = CoreSlots(2)
    order: list[str] = []
    first = threading.Event()

    def wide() -> None:
        first.set()
        with slots.hold(2):
            order.append("wide")

    def narrow() -> None:
        first.wait()
        time.sleep(0.05)
        with slots.hold(1):
            order.append("narrow")

    with slots.hold(1):
        threads = [threading.Thread(target=wide), threading.Thread(target=narrow)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert order == []
    for thread in threads:
        thread.join(timeout=10)
    assert order == ["wide", "narrow"]


def test_stop_lets_nobody_in() -> None:
    slots = CoreSlots(1)
    seen: list[str] = []

    def late() -> None:
        try:
            with slots.hold(1):
                seen.append("in")
        except Stopped:
            seen.append("stopped")

    with slots.hold(1):
        thread = threading.Thread(target=late)
        thread.start()
        time.sleep(0.05)
        slots.stop()
        thread.join(timeout=10)
    assert seen == ["stopped"]
    with pytest.raises(Stopped), slots.hold(1):
        pass
