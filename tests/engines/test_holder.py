"""One run drives a sampler at a time; a silent one may be followed by another."""

import time

import pytest

from k15.engines.service.holder import Holder
from k15.engines.service.peer import Standing


def test_a_sampler_serves_one_session_until_that_falls_silent() -> None:
    holder = Holder(held_s=0.2)
    holder.check("evaluation")  # nobody's yet
    holder.take("first")
    holder.take("first")
    with pytest.raises(ConnectionError, match="another run drives this sampler"):
        holder.take("second")
    for _ in range(4):
        time.sleep(0.1)
        holder.heard("second")  # which is no sign of life of the first
        holder.heard("first")
    with pytest.raises(ConnectionError, match="another run drives this sampler"):
        holder.take("second")
    holder.check("first")
    time.sleep(0.25)
    holder.take("second")
    with pytest.raises(ConnectionError, match="another run has taken this sampler over"):
        holder.check("first")
    holder.check("second")
    holder.release("first")
    with pytest.raises(ConnectionError, match="another run drives this sampler"):
        holder.take("first")
    holder.release("second")
    holder.take("first")


@pytest.mark.parametrize(
    "url", ["10.0.0.1:7000", "http://10.0.0.1", "https://h:1", "http://h:1/x", "http://h:y"]
)
def test_what_is_no_address_of_a_sampler_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="write http://host:port"):
        Standing(url, "secret", "run")
