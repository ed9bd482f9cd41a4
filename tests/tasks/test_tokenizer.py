"""Text to tokens and back."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from k15.tasks.format import end_token_id, prompt_token_ids, response_text
from k15.tasks.tokenizer import load_tokenizer, train_tokenizer

pytestmark = pytest.mark.engine
TEXTS = ["State the sum: 12 + 7 =\n", "12 + 7 = 19\nWait. Let me look again. Yes.\n#### 19"] * 50


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 320)


def response_token_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return [*tokenizer.encode(text, add_special_tokens=False), end_token_id(tokenizer)]


STRANGE = "99 bottles, naïve “quotes” 日本 <x>\n\n\t end "


@pytest.mark.parametrize("text", [*TEXTS[:2], STRANGE, "#### -5"])
def test_every_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert response_text(tokenizer, response_token_ids(tokenizer, text)) == text


def test_digits_stand_alone_and_fixed_phrases_are_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = [tokenizer.decode([i]) for i in prompt_token_ids(tokenizer, "State the sum: 12 + 77 =")]
    assert tokens == ["State the sum: ", "1", "2", " + ", "7", "7", " =", "\n"]


def test_a_response_ends_with_the_end_token_and_text_stops_there(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = response_token_ids(tokenizer, "12 + 7")
    assert ids[-1] == end_token_id(tokenizer)
    assert response_text(tokenizer, [*ids, 5, 6]) == "12 + 7"


def test_saved_and_loaded_it_is_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert prompt_token_ids(loaded, TEXTS[0]) == prompt_token_ids(tokenizer, TEXTS[0])
    assert response_text(loaded, response_token_ids(loaded, TEXTS[1])) == TEXTS[1]
    assert end_token_id(loaded) == end_token_id(tokenizer)


def test_a_chat_template_is_used_where_there_is_one() -> None:
    chat = train_tokenizer(TEXTS, 320)
    chat.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n#### ' }}{% endif %}"
    )
    assert chat.decode(prompt_token_ids(chat, "12 + 7")) == "12 + 7\n#### "


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size is 100"):
        train_tokenizer(TEXTS, 100)


def test_of_words_no_token_spans_two() -> None:
    words = train_tokenizer(["red-cat 17 the sun ? red-cat 17"] * 50, 320, "words")
    text = " the sun red-cat 17 ? red-cat 17"
    ids = words.encode(text, add_special_tokens=False)
    assert [words.decode([token]) for token in ids] == [f" {word}" for word in text.split()]
    assert words.decode(words.encode(STRANGE, add_special_tokens=False)) == STRANGE


def test_a_tokenizer_of_no_family_stays_what_it_is_under_a_model_of_one(tmp_path: Path) -> None:
    trained = train_tokenizer(["one two three"] * 10, 300, "words")
    trained.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": len(trained)}))
    loaded = load_tokenizer(tmp_path)
    assert loaded.get_vocab() == trained.get_vocab()
    assert loaded.encode(" two three?") == trained.encode(" two three?")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"vocab_size": 300}, None),
        ({"vocab_size": 312, "eos_token_id": [1]}, None),  # padded by 4 %
        ({"vocab_size": 299}, "its largest token is 299"),
        ({"vocab_size": 512}, "it has 300 tokens, config.json's vocab_size is 512"),
        ({"eos_token_id": 300}, "it has no token 300, config.json's eos_token_id"),
        ({"eos_token_id": [1, 70]}, r"its token 70 \(.*\) is a plain one, and config.json's eos_token_id"),
    ],
)
def test_another_model_s_tokenizer_is_refused(
    tmp_path: Path, fields: dict[str, object], named: str | None
) -> None:
    trained = train_tokenizer([f"{n} {n * n} and more of it" for n in range(300)], 300, "words")
    assert len(trained) == 300
    trained.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": 300, **fields}))
    if named is None:
        assert len(load_tokenizer(tmp_path)) == 300
        return
    with pytest.raises(ValueError, match=f"the tokenizer is not this model's: {named}"):
        load_tokenizer(tmp_path)
