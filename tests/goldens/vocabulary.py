"""A small byte-pair vocabulary of the same construction as CLIP's.

Ids run: 256 bytes as printable characters, the same 256 ending a word (`</w>`), one id per merge, and the two
special tokens last. Every prompt therefore tokenizes, whatever its bytes.
"""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"

SENTENCES = """
a photograph of an astronaut riding a horse on the moon, highly detailed
a red apple on a blue background, and a small green apple on a yellow background
the quick brown fox jumps over the lazy dog; it's the dog's day and they're happy
an oil painting of a lighthouse by the sea at night, in the style of the old masters
a bowl of soup that is also a portal to another dimension, digital art
we've seen that it doesn't rain in the desert, but the cat's hat isn't dry
low quality, blurry, bad anatomy, watermark, text, worst quality, jpeg artifacts
a cozy cabin in a snowy forest, warm light in the windows, 35mm photograph, 1998, 4k
""".strip().splitlines()

# The expression by which CLIP cuts a prompt into words, for the ASCII of the sentences above.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+"


def printable_bytes() -> list[str]:
    """GPT-2's `bytes_to_unicode` in id order: each byte as a printable character."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(rest))]


def train_merges(count: int) -> list[tuple[str, str]]:
    """The first `count` merges that byte-pair encoding learns from `SENTENCES`; ties go by the alphabet.

    `tokenizers.trainers.BpeTrainer` breaks ties by hash order, which differs from run to run.
    """
    words = Counter(word for sentence in SENTENCES for word in re.findall(WORDS, sentence.lower()))
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in pieces.values():
            i = 0
            while i + 1 < len(parts):
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def write(folder: Path, merges: int, pad_token: str, model_max_length: int) -> int:
    """Writes the four files of a CLIP tokenizer as Stable Diffusion 1 ships them; returns the vocabulary's size."""
    folder.mkdir(parents=True)
    learned = train_merges(merges)
    alphabet = printable_bytes()
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(merge) for merge in learned] + [START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    assert len(vocabulary) == len(tokens), "two merges made the same token"
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in learned)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")

    def special(content: str) -> dict:
        return {
            "__type": "AddedToken",
            "content": content,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }

    config = {
        "add_prefix_space": False,
        "bos_token": special(START),
        "do_lower_case": True,
        "eos_token": special(END),
        "errors": "replace",
        "model_max_length": model_max_length,
        "pad_token": pad_token,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": special(END),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokens_map = {
        key: {k: v for k, v in special(content).items() if k != "__type"}
        for key, content in (("bos_token", START), ("eos_token", END), ("unk_token", END))
    }
    tokens_map["pad_token"] = pad_token
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens_map, indent=2) + "\n")
    return len(vocabulary)
