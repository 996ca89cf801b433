"""A byte-pair vocabulary in the format of CLIP's tokenizer, grown from our captions.

The layout is CLIP's own: the 256 bytes, the 256 bytes that end a word, one entry
per merge, then the two markers. All bytes are present, so any prompt tokenizes.
"""

import json
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import emoji
import regex
from transformers import CLIPTokenizer

from data import SIZE_WORDS, TEMPLATES, TEMPLATES_NO_COLOUR
from things import BACKGROUNDS, COLOUR_SYNONYMS, THINGS

LENGTH = 32  # tokens per prompt, markers included
SIZE = 1536  # entries, at most
START, END = "<|startoftext|>", "<|endoftext|>"
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def byte_characters():
    """CLIP writes every byte as one printable character; this is its table."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(printable))
    ordered = printable + [byte for byte in range(256) if byte not in printable]
    return {byte: table[byte] for byte in ordered}


def corpus():
    """Words and how much each matters: ours far above the rest of emoji names."""
    words = Counter()
    ours = [name for _, names in THINGS for name in names.split(",")]
    ours += chain(BACKGROUNDS, *COLOUR_SYNONYMS.values(), *SIZE_WORDS.values())
    ours += [regex.sub(r"\{\w+\}", " ", text) for text in TEMPLATES + TEMPLATES_NO_COLOUR]
    for text in ours + ["a", "an", "the"]:
        words.update({word: 1000 for word in WORD.findall(text.lower())})
    for data in emoji.EMOJI_DATA.values():
        if data["status"] == emoji.STATUS["fully_qualified"] and "skin_tone" not in data["en"]:
            words.update(WORD.findall(data["en"].strip(":").replace("_", " ").lower()))
    return words


def learn_merges(words, count):
    """Byte-pair encoding: merge the most frequent neighbours, again and again."""
    table = byte_characters()
    spellings = []
    for word, weight in sorted(words.items()):
        letters = [table[byte] for byte in word.encode()]
        letters[-1] += "</w>"
        spellings.append((letters, weight))
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for letters, weight in spellings:
            for pair in pairwise(letters):
                pairs[pair] += weight
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for letters, _ in spellings:
            i = 0
            while i + 1 < len(letters):
                if (letters[i], letters[i + 1]) == best:
                    letters[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def write_tokenizer(folder):
    """Writes vocab.json, merges.txt and their configuration into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    characters = list(byte_characters().values())
    merges = learn_merges(corpus(), SIZE - 2 * 256 - 2)
    entries = characters + [c + "</w>" for c in characters] + ["".join(pair) for pair in merges] + [START, END]
    assert len(set(entries)) == len(entries)

    def dump(name, value):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    (folder / "vocab.json").write_text(
        json.dumps({entry: i for i, entry in enumerate(entries)}, ensure_ascii=False), encoding="utf-8"
    )
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    markers = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    dump("special_tokens_map.json", markers)
    dump(
        "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": LENGTH,
            "do_lower_case": True,
            "add_prefix_space": False,
            "errors": "replace",
            **markers,
        },
    )


def load_tokenizer(folder):
    return CLIPTokenizer.from_pretrained(folder)


def encode(tokenizer, texts):
    """Token ids as the diffusion pipeline makes them: [n, LENGTH], padded and cut."""
    return tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
