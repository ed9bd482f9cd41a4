# environment: engine
"""The detector of loops: its cost while sampling, how soon it calls, and what it calls in ordinary text.

    make bench NAME=repeats

Cost: 512 responses fed a token at a time, max_period 256, in CPU time. Texts: every text of over 40
characters in ../shared/data (left out where that is absent), and worked arithmetic of chain_sum, as
characters and by a BPE of 16,000 tokens trained on them. What it calls there is printed. Writes
out/bench/repeats.json.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from k15.algo.repeats import Repeats
from k15.tasks.demonstrations import STYLES
from k15.tasks.families import problems

RESPONSES, LENGTH, MAX_PERIOD = 512, 512, 256
ARITHMETIC = {"min_terms": 3, "max_terms": 12, "min_digits": 1, "max_digits": 4}
SHOWN = 12


def main() -> int:
    """Measure, print, write."""
    figures = cost()
    texts = {"arithmetic": list(arithmetic()), **published(Path("../shared/data"))}
    if len(texts) == 1:
        print("no ../shared/data: its texts are left out")
    for name, encode in encoders(list(chain.from_iterable(texts.values()))).items():
        called = num = tokens = 0
        for source, given in texts.items():
            for text in given:
                ids = encode(text)
                repeats = Repeats(max_period=MAX_PERIOD)
                num, tokens = num + 1, tokens + len(ids)
                if repeats.feed(ids):
                    called += 1
                    if called <= SHOWN:
                        print(f"  {source} as {name}s: period {repeats.period} after {repeats.num_tokens}")
        print(f"{name}s: {called} of {num} texts ({tokens} tokens) are called loops")
        figures |= {f"{name}_texts": num, f"{name}_texts_called": called, f"{name}_tokens": tokens}
    target = Path.cwd() / "out/bench/repeats.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1))
    return 0


def cost() -> dict[str, float]:
    """CPU microseconds a token, of unlike tokens, of few tokens, and just before a long loop is called."""
    source = random.Random(0)
    made: dict[str, Callable[[], list[int]]] = {
        "words": lambda: [source.randrange(32_000) for _ in range(LENGTH)],
        "digits": lambda: [source.randrange(12) for _ in range(LENGTH)],
        "loops": lambda: [source.randrange(32_000) for _ in range(LENGTH // 3)] * 3,
    }
    figures = {}
    for name, make in made.items():
        watched = [(Repeats(max_period=MAX_PERIOD), make()) for _ in range(RESPONSES)]
        started = time.process_time()
        for place in range(LENGTH // 3 * 3):
            for repeats, tokens in watched:
                repeats.feed(tokens[place : place + 1])
        spent = (time.process_time() - started) / (RESPONSES * (LENGTH // 3 * 3))
        figures[f"{name}_us_per_token"] = spent * 1e6
        print(f"{name}: {spent * 1e6:.2f} us of CPU a token, {RESPONSES} responses")
    return figures


def arithmetic() -> Iterator[str]:
    """Worked sums, some of them checked."""
    source = random.Random(0)
    for problem in islice(problems("chain_sum", ARITHMETIC, seed=0), 3000):
        yield STYLES[source.choice(["short", "checked"])](problem, source)


def published(folder: Path) -> dict[str, list[str]]:
    """The texts of each file."""
    return {
        path.stem: [
            value
            for line in path.read_text().splitlines()
            for value in json.loads(line).values()
            if isinstance(value, str) and len(value) > 40
        ]
        for path in sorted(folder.glob("*/*.jsonl"))
    }


def encoders(texts: list[str]) -> dict[str, Callable[[str], list[int]]]:
    """Tokenizers: characters, and byte pairs."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=16_000, show_progress=False))
    return {"character": lambda text: [ord(c) for c in text], "token": lambda text: bpe.encode(text).ids}


if __name__ == "__main__":
    sys.exit(main())
