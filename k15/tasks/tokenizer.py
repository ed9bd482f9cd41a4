"""A model's own tokenizer, and a small byte-level BPE to train.

In the latter any text has tokens; they span phrases (digits stand alone, a fixed phrase becomes one token) or
words at most.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

PAD, END = "<pad>", "<eos>"
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")  # one of them holds the tokens
MOST_UNUSED = 0.05  # of a vocabulary: embeddings are padded to a multiple, of Qwen's 152,064 0.3 %
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
    no embedding for, ends no text with the token that config.json names, or is far smaller than the model's.
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


def tokenizer_digest(tokenizer: Any) -> str:
    """Of all that decides which tokens a text becomes: what the tokenizer saves, versions of libraries."""
    digest = hashlib.sha256(f"{transformers.__version__} {tokenizers.__version__}".encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                digest.update(f"\0{path.relative_to(folder)} {len(data)}\0".encode() + data)
    return digest.hexdigest()


def _loader(directory: Path) -> Any:
    """AutoTokenizer, but not for a tokenizer of no family: it would take the model's for the tokenizer's."""
    path = directory / "tokenizer_config.json"
    named = json.loads(path.read_text()).get("tokenizer_class") if path.is_file() else None
    plain = named in ("PreTrainedTokenizerFast", "TokenizersBackend")
    return PreTrainedTokenizerFast if plain and (directory / "tokenizer.json").is_file() else AutoTokenizer


def _refuse_foreign(tokenizer: Any, config: dict[str, Any], directory: Path) -> None:
    if problem := _mismatch(tokenizer, config):
        raise ValueError(f"{directory}: the tokenizer is not this model's: {problem}; give the model its own")


def _mismatch(tokenizer: Any, config: dict[str, Any]) -> str:
    largest = max(tokenizer.get_vocab().values())
    vocabulary = config.get("vocab_size")
    if isinstance(vocabulary, int) and largest >= vocabulary:
        return f"its largest token is {largest}, and config.json's vocab_size is {vocabulary}"
    ends = config.get("eos_token_id")
    special = set(tokenizer.all_special_ids)
    special |= {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    for end in ends if isinstance(ends, list) else [ends]:
        if end is None or end in special:
            continue
        if not isinstance(end, int) or not 0 <= end <= largest:
            return f"it has no token {end}, config.json's eos_token_id (its largest is {largest})"
        named = tokenizer.convert_ids_to_tokens(end)
        return f"its token {end} ({named!r}) is a plain one, and config.json's eos_token_id"
    if isinstance(vocabulary, int) and largest + 1 < vocabulary * (1 - MOST_UNUSED):
        return f"it has {largest + 1} tokens, config.json's vocab_size is {vocabulary}"
    return ""
