"""A model's own tokenizer, and a small byte-level BPE to train.

In the latter any text has tokens; they span phrases (digits stand alone, a fixed phrase becomes one token) or
words at most.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

PAD, END = "<pad>", "<eos>"
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")  # one of them holds the tokens
PIECES = {
    # A digit; or text up to the next digit, line end or punctuation mark (which it takes in); or marks.
    "phrases": r"\p{N}|\n*[^\p{N}\n.,?!]+[.,?!]?|[\n.,?!]+",
    # A word with the space before it; or spaces.
    "words": r" ?[^\s]+|\s+",
}


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, pieces: str = "phrases"
) -> PreTrainedTokenizerFast:
    """A tokenizer trained on `texts`; decoding gives back every text exactly, seen or not.

    No token spans more than one of PIECES[pieces].
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + 2:
        raise ValueError(f"vocab_size is {vocab_size}; a byte-level one needs at least {len(alphabet) + 2}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES[pieces]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a model directory.

    ValueError where there is none, it cannot be read, or it is another model's: it makes tokens the model has
    no embedding for, or lacks the one that config.json ends a text with.
    """
    if not any((directory / name).is_file() for name in FILES):
        raise ValueError(f"{directory}: no tokenizer; it needs one of {', '.join(FILES)}")
    try:
        tokenizer = _loader(directory).from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{directory}: its tokenizer cannot be read: {error}") from None
    config = json.loads((directory / "config.json").read_text())
    _refuse_foreign(tokenizer, config, directory)
    return tokenizer


def _loader(directory: Path) -> Any:
    """AutoTokenizer, but not for a tokenizer of no family: it would take the model's for the tokenizer's."""
    path = directory / "tokenizer_config.json"
    named = json.loads(path.read_text()).get("tokenizer_class") if path.is_file() else None
    plain = named in ("PreTrainedTokenizerFast", "TokenizersBackend")
    return PreTrainedTokenizerFast if plain and (directory / "tokenizer.json").is_file() else AutoTokenizer


def _refuse_foreign(tokenizer: Any, config: dict[str, Any], directory: Path) -> None:
    largest = max(tokenizer.get_vocab().values())
    vocabulary = config.get("vocab_size")
    ends = config.get("eos_token_id")
    wrong = [end for end in (ends if isinstance(ends, list) else [ends]) if end is not None and end > largest]
    if isinstance(vocabulary, int) and largest >= vocabulary:
        problem = f"its largest token is {largest}, and config.json's vocab_size is {vocabulary}"
    elif wrong:
        problem = f"it has no token {wrong[0]}, config.json's eos_token_id (its largest is {largest})"
    else:
        return
    raise ValueError(f"{directory}: the tokenizer is not this model's: {problem}; give the model its own")
