"""Train a byte-level BPE tokenizer for code and save it as a folder that transformers' AutoTokenizer loads.

Invariants: decoding returns the exact bytes (no normalizer). A newline is always a token of its own; so is the
indentation of a line, and the `+` or `-` at the start of a diff line. The words of a line are therefore the same tokens
in a document, in a context line and in an added line; only the indentation of a context line is one space longer.
Control tokens are added tokens with the ids 0 to 7. `load_plain_tokenizer` has none of them, so that no text of a user
or of the corpus can become one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
END, SUFFIX, PREFIX, MIDDLE, NAME, BEFORE, MESSAGE, DIFF = range(8)
CONTROL_TOKENS = ("<|endoftext|>", "<|SUF|>", "<|PRE|>", "<|MID|>", "<NME>", "<BEF>", "<MSG>", "<DFF>")

# In order: a newline; the + or - of a diff line; the indentation of a line (also after a + or -; the start of the text
# counts as the start of a line); one digit; a word with its leading underscores; punctuation; other spaces, the last of
# which belongs to the following word.
PATTERN = "|".join(
    (
        r"\n",
        r"(?<![^\n])[+\-]",
        r"(?<![^\n])[ \t]+",
        r"(?<=\n[+\-])[ \t]+",
        r" ?\p{N}",
        r" ?_*[\p{L}\p{M}]+",
        r" ?[^\s\p{L}\p{M}\p{N}]+",
        r"[ \t]+(?= \S)",
        r"[ \t]+",
        r"\s",
    )
)
MAX_SPACE_RUN = 41  # forty columns of indentation and the space before a context line


def make_untrained() -> Tokenizer:
    """Create the tokenizer with its pre-tokenizer and decoder, without a vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def iter_texts(corpus: Path, limit: int) -> Iterator[str]:
    """Yield about `limit` bytes of files, evenly chosen, then runs of spaces and tabs often enough to become tokens."""
    every = max(1, corpus.stat().st_size // limit)
    with corpus.open() as lines:
        yield from (json.loads(line)["text"] for number, line in enumerate(lines) if number % every == 0)
    for length in range(1, MAX_SPACE_RUN + 1):
        yield ("\n" + " " * length + "x") * (40_000 - 500 * length)
    for length in range(1, 7):
        yield ("\n" + "\t" * length + "x") * 20_000


def train_tokenizer(corpus: Path, vocab_size: int, limit: int) -> Tokenizer:
    """Train a tokenizer of exactly `vocab_size` tokens, including the control tokens."""
    tokenizer = make_untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=48,
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter_texts(corpus, limit), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write the two files that AutoTokenizer needs."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": CONTROL_TOKENS[END],
        "pad_token": CONTROL_TOKENS[END],
        "additional_special_tokens": list(CONTROL_TOKENS[1:]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def load_plain_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer without its added tokens: it encodes everything as ordinary text."""
    description = json.loads((folder / "tokenizer.json").read_text())
    description["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(description))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument(
        "--vocab-size", type=int, default=8192, help="8192 for the CPU configuration, 16384 for the GPU"
    )
    parser.add_argument("--context-length", type=int, default=1024)
    parser.add_argument("--bytes", type=int, default=30_000_000, help="approximate size of the training text")
    options = parser.parse_args()
    tokenizer = train_tokenizer(options.work / "corpus" / "train.jsonl", options.vocab_size, options.bytes)
    save_tokenizer(tokenizer, options.work / "tokenizer", options.context_length)
    print(f"{tokenizer.get_vocab_size()} tokens in {options.work / 'tokenizer'}")


if __name__ == "__main__":
    main()
