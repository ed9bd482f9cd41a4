"""Early detection of a response that repeats itself (METHOD.md §5).

A response *loops* with period p when its last tokens are one block of p tokens, over and over: every token
of a stretch at its end equals the one p before it. It is called looping as soon as, for some p ≤ max_period,
that stretch, first block included, holds at least COPIES blocks and at least MIN_TOKENS tokens. So a line of
dashes, a table or a sentence said twice passes, and what is stopped would have gone on.

How it is found: whenever GRAM more tokens are there, the last GRAM of them are searched for in the
max_period tokens before, by one search of their low bytes. Each place where they stand is a lag at which the
end matches itself; from there on such a lag is followed token by token, until it breaks or the stretch is
long enough. A stretch that is long enough holds such a search early on, so none is missed, and it is called
at its very token: whatever the sizes of the pieces in which tokens come. A continued response is fed its
tokens so far first.
"""

from collections.abc import Sequence

COPIES = 4
MIN_TOKENS = 64
GRAM = 8  # far less than the matches of a stretch, so that a search falls among its first ones


class Repeats:
    """Watches one response. `max_period` 0 watches nothing; ValueError where it is below 0."""

    def __init__(self, *, max_period: int) -> None:
        if max_period < 0:
            raise ValueError(f"max_period is {max_period}: give the longest period in tokens, or 0 for none")
        self._max_period = max_period
        self._tokens: list[int] = []  # the last ones
        self._low = bytearray()  # their low bytes, up to the last search
        self._followed: list[tuple[int, int]] = []  # (lag, num_tokens at which its stretch is long enough)
        self.num_tokens = 0  # of the response so far; where it loops, up to the token that showed it
        self.period = 0  # of the loop it ends in; 0 while there is none

    def feed(self, tokens: Sequence[int]) -> bool:
        """Take the response's next tokens; whether it loops. After the token that shows it none is taken."""
        place = 0
        while place < len(tokens) and self._max_period and not self.period:
            some = 1 if self._followed else GRAM - self.num_tokens % GRAM
            taken = tokens[place : place + some]
            self._tokens += taken
            self.num_tokens += len(taken)
            place += some
            if self._followed:
                self._follow(taken[0])
            if self.num_tokens % GRAM == 0:
                self._search()
        return self.period > 0

    def _follow(self, token: int) -> None:
        """Drop the lags that broke; a loop is there where one's stretch is long enough."""
        seen = self._tokens
        self._followed = [pair for pair in self._followed if seen[-1 - pair[0]] == token]
        self.period = min((lag for lag, enough in self._followed if self.num_tokens >= enough), default=0)

    def _search(self) -> None:
        """Follow the lags at which the last GRAM tokens match."""
        seen, low = self._tokens, self._low
        gram = bytes([token & 255 for token in seen[-GRAM:]])
        low += gram
        end = len(low)
        first = max(0, end - GRAM - self._max_period)
        place = low.find(gram, first, end - 1)
        while place >= 0:
            self._consider(end - GRAM - place)
            place = low.find(gram, place + 1, end - 1)
        if first > 4 * self._max_period:
            del seen[:first], low[:first]

    def _consider(self, lag: int) -> None:
        """Follow a lag at which the low bytes match, where the tokens do, unless it is followed."""
        seen, number = self._tokens, 0
        while number < 2 * GRAM and number + lag < len(seen) and seen[-1 - number] == seen[-1 - number - lag]:
            number += 1
        if number >= GRAM and all(lag != other for other, _ in self._followed):
            self._followed.append((lag, self.num_tokens - number + _enough(lag)))


def _enough(lag: int) -> int:
    """Matches at this lag that make a loop: the stretch without its first block."""
    return max(COPIES * lag, MIN_TOKENS) - lag
