"""Writes what CLIP's standard vocabulary makes of odd prompts.

    python tests/goldens/clip_vocabulary.py bpe_simple_vocab_16e6.txt

The file is OpenAI's (github.com/openai/CLIP, `clip/`, unpacked). From it
`vocab.json` and `merges.txt` are made by OpenAI's recipe, as they were for `openai/clip-vit-large-patch14`, and
transformers' tokenizer, from these, makes the ids. Writes `clip_vocabulary.json`: SHA-256 of both files and the ids of each
prompt, padded with the end token and with `!`.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer

from record import ODD_PROMPTS, quiet
from vocabulary import END, START, printable_bytes

HERE = Path(__file__).parent
MORE = [
    "it's o'clock, rock'n'roll; that'd've been", "e\u0301te\u0301 vs \u00e9t\u00e9", "\ufffd replacement \ufffd",
    "&amp; &lt;b&gt; &quot;", "😀😃 🇩🇪 👨‍👩‍👧", "Ελληνικά עברית العربية हिन्दी ไทย", "３５ｍｍ ½ ㎞", "a\u2014b\u2026c \u201cq\u201d", "x" * 400,
]


def files(source: str) -> tuple[str, str]:
    """`vocab.json` and `merges.txt`."""
    lines = source.split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = printable_bytes()
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["".join(line.split()) for line in lines]
    vocabulary = {token: index for index, token in enumerate(tokens + [START, END])}
    assert len(vocabulary) == 49408
    return json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")), "#version: 0.2\n" + "\n".join(lines) + "\n"


def main() -> None:
    quiet()
    vocabulary, merges = files(Path(sys.argv[1]).read_text(encoding="utf-8"))
    hashes = {"vocab.json": vocabulary, "merges.txt": merges}
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in hashes.items()}
    prompts = ODD_PROMPTS + MORE
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(vocabulary, encoding="utf-8")
        (Path(folder) / "merges.txt").write_text(merges, encoding="utf-8")
        tables = {}
        for pad_token in (END, "!"):
            files_at = [str(Path(folder) / name) for name in ("vocab.json", "merges.txt")]
            config = {"tokenizer_class": "CLIPTokenizer", "pad_token": pad_token, "model_max_length": 77}
            (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            rows = tokenizer(prompts, padding="max_length", max_length=77, truncation=True).input_ids
            tables[pad_token] = rows
    rows = [{"prompt": p, "ids": a, "padded_with_0": b} for p, a, b in zip(prompts, tables[END], tables["!"])]
    text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    hashes = json.dumps(hashes)
    (HERE / "clip_vocabulary.json").write_text(f'{{"sha256": {hashes}, "prompts": [\n{text}\n]}}\n')


if __name__ == "__main__":
    main()
