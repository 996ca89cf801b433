"""Writes what weighted, long and clip-skipped prompts become, in tiny models of two families.

    python tests/goldens/prompts.py

The reading is that of AUTOMATIC1111's web UI (`modules/prompt_parser.py`, `modules/sd_hijack_clip.py`), written down here
anew from what they do; the networks are transformers'. `prompts/goldens.safetensors` has text states, and pooled prompts where
there are any, for the cases of `prompts/manifest.json`.
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from record import quiet

HERE = Path(__file__).parent
ROOM, BACKTRACK = 75, 20
LONG = ", ".join(f"word {i} of a red apple" for i in range(20))
PROMPTS = [
    "a red apple",
    "a (red) apple",
    "a ((red)) [apple] on (blue:1.4) sky",
    "\\(a\\) red: apple :1.3) (unclosed, [twice",
    "(a:0.2) (b:0) (c:-0.5) d",
    "a red apple BREAK on (a blue:1.2) background",
    LONG,
    "x " * 73 + "y, z a b c",
    "(" + LONG + ":0.8) [tail]",
    "",
    "BREAK",
]
CASES = [("sd1", None, None), ("sd1", 1, None), ("sd1", 2, None), ("sdxl", None, None), ("sd2", None, None)]


def parse(text: str) -> list:
    """`[text, weight]` for every stretch; a chunk's end is None."""
    pattern = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:")
    spans, round_, square = [], [], []

    def multiply(start, factor):
        for span in spans[start:]:
            if span is not None:
                span[1] *= factor

    for match in pattern.finditer(text):
        token, weight = match.group(0), match.group(1)
        if token.startswith("\\"):
            spans.append([token[1:], 1.0])
        elif token == "(":
            round_.append(len(spans))
        elif token == "[":
            square.append(len(spans))
        elif weight is not None and round_:
            multiply(round_.pop(), float(weight))
        elif token == ")" and round_:
            multiply(round_.pop(), 1.1)
        elif token == "]" and square:
            multiply(square.pop(), 1 / 1.1)
        else:
            for i, part in enumerate(re.split(r"\s*\bBREAK\b\s*", token)):
                if i:
                    spans.append(None)
                spans.append([part, 1.0])
    for start in round_:
        multiply(start, 1.1)
    for start in square:
        multiply(start, 1 / 1.1)
    joined = []
    for span in spans:
        if span is not None and joined and joined[-1] is not None and joined[-1][1] == span[1]:
            joined[-1][0] += span[0]
        else:
            joined.append(span)
    return joined


def chunks(tokenizer, text: str) -> list:
    """Lists of (id, weight), at most `ROOM` long."""
    comma = tokenizer.get_vocab().get(",</w>")
    done, chunk, last_comma = [], [], -1
    for span in parse(text):
        if span is None:
            done.append(chunk)
            chunk, last_comma = [], -1
            continue
        for token in tokenizer(span[0], add_special_tokens=False, truncation=False).input_ids:
            if token == comma:
                last_comma = len(chunk)
            elif len(chunk) == ROOM and last_comma != -1 and len(chunk) - last_comma <= BACKTRACK:
                chunk, moved = chunk[: last_comma + 1], chunk[last_comma + 1 :]
                done.append(chunk)
                chunk, last_comma = moved, -1
            if len(chunk) == ROOM:
                done.append(chunk)
                chunk, last_comma = [], -1
            chunk.append((token, span[1]))
    if chunk or not done:
        done.append(chunk)
    return done


@torch.no_grad()
def encode(model, tokenizer, prompt: str, skip: int, final_norm: bool) -> tuple:
    states, pooled = [], None
    for chunk in chunks(tokenizer, prompt):
        ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (ROOM + 2 - len(ids))
        weights = [1.0, *(weight for _, weight in chunk)]
        weights += [1.0] * (ROOM + 2 - len(weights))
        output = model(torch.tensor([ids]), output_hidden_states=True)
        state = output.hidden_states[-skip]
        if final_norm:
            inner = getattr(model, "text_model", model)
            state = inner.final_layer_norm(state)
        if any(weight != 1.0 for weight in weights):
            mean = state.mean()
            state = state * torch.tensor(weights)[None, :, None]
            state = state * (mean / state.mean())
        states.append(state)
        if pooled is None and hasattr(output, "text_embeds"):
            pooled = output.text_embeds
    return torch.cat(states, dim=1)[0], pooled


def main() -> None:
    quiet()
    tensors, manifest = {}, []
    for name, clip_skip, _ in CASES:
        folder = HERE / name / "model"
        xl = (folder / "text_encoder_2").exists()
        encoders = [(CLIPTextModel, "")] + ([(CLIPTextModelWithProjection, "_2")] if xl else [])
        loaded = []
        for cls, suffix in encoders:
            tokenizer = CLIPTokenizer.from_pretrained(folder / f"tokenizer{suffix}")
            loaded.append((cls.from_pretrained(folder / f"text_encoder{suffix}", dtype=torch.float32).eval(), tokenizer))
        for prompt in PROMPTS:
            skip = clip_skip or (2 if xl else 1)
            parts = [encode(model, tokenizer, prompt, skip, not xl) for model, tokenizer in loaded]
            case = f"prompt.{len(manifest)}"
            manifest.append({"case": case, "model": name, "prompt": prompt, "clip_skip": clip_skip})
            tensors[f"{case}.text_states"] = torch.cat([states for states, _ in parts], dim=1).contiguous()
            for _, pooled in parts:
                if pooled is not None:
                    tensors[f"{case}.pooled"] = pooled[0].contiguous()
    out = HERE / "prompts"
    out.mkdir(exist_ok=True)
    # A part of the values of each is enough to tell states apart, and keeps the file small.
    tensors = {name: tensor[::5].contiguous() if tensor.dim() == 2 else tensor for name, tensor in tensors.items()}
    save_file(tensors, out / "goldens.safetensors")
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(len(manifest), "cases")


if __name__ == "__main__":
    main()
