"""Makes the training pictures: one emoji on a plain background, with a caption.

Nothing is stored: glyphs are rendered once from the Noto Color Emoji font at
every size needed, and pictures are composed from them on the fly, so no two
epochs see the same pictures.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from things import BACKGROUNDS, COLOUR_SYNONYMS, article, load_things

SIDE = 64  # pictures are SIDE x SIDE pixels
DEFAULT_FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
STRIKE = 109  # the one size at which the font has bitmaps

# Longest side of the glyph in pixels, by the size word in the caption.
SIZES = {"": (40, 56), "small": (27, 35), "big": (56, 62)}
SIZE_WORDS = {"small": ["small", "little", "tiny"], "big": ["big", "large"]}
SHIFT = 3  # the glyph's centre moves by at most this many pixels either way

# {a} and {b} are the articles of what follows; {thing} may carry a size word.
TEMPLATES = [
    "{a}{thing} on {b}{colour} background",
    "{a}{thing} on {b}{colour} background",
    "{a}{thing} on {colour} background",
    "{a}{thing} on {colour}",
    "{thing} on {colour}",
    "{thing} on {b}{colour} background",
    "{thing}, {colour} background",
    "{a}{thing}, {colour} background",
    "a picture of {a}{thing}, {colour} background",
    "a picture of {a}{thing} on {b}{colour} background",
    "an emoji of {a}{thing} on {b}{colour} background",
    "{a}{thing} against {b}{colour} background",
    "{a}{thing} in front of {b}{colour} background",
    "{colour} background with {a}{thing}",
]
# A prompt may leave the colour out; the picture's background is then arbitrary.
TEMPLATES_NO_COLOUR = ["{a}{thing}", "{thing}", "a picture of {a}{thing}"]


@dataclass
class Batch:
    pixels: np.ndarray  # [n, SIDE, SIDE, 3] uint8
    things: np.ndarray  # [n] index into the things
    colours: np.ndarray  # [n] index into the backgrounds
    captions: list  # n strings


def render_glyph(font, char):
    """The glyph of an emoji, cropped to its visible pixels (RGBA)."""
    canvas = Image.new("RGBA", (STRIKE * 2, STRIKE * 2))
    ImageDraw.Draw(canvas).text((20, 20), char, font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"the font has no glyph for {char!r}")
    return canvas.crop(box)


def caption(rng, thing, colour, size):
    """One of many ways to ask for this picture."""
    name = thing.names[0] if rng.random() < 0.5 else thing.names[rng.integers(len(thing.names))]
    if size:
        words = SIZE_WORDS[size]
        name_a = words[rng.integers(len(words))] + " " + name
        a = "" if article(name) == "" else article(name_a)
    else:
        name_a, a = name, article(name)
    colour_names = COLOUR_SYNONYMS.get(colour, [colour])
    # The plain name more often than the other spelling.
    colour_name = colour_names[0 if rng.random() < 0.7 else rng.integers(len(colour_names))]
    templates = TEMPLATES if rng.random() < 0.96 else TEMPLATES_NO_COLOUR
    template = templates[rng.integers(len(templates))]
    return template.format(a=a, thing=name_a, b=article(colour_name), colour=colour_name)


class Composer:
    """Composes random pictures; the same seed gives the same pictures."""

    def __init__(self, count, seed, font_path=DEFAULT_FONT):
        self.things = load_things(count)
        self.colour_names = list(BACKGROUNDS)
        self.colours = np.array(list(BACKGROUNDS.values()), np.float32)  # [c, 3]
        self.seed = seed  # a tuple of numbers
        self.reseed(0)
        if not Path(font_path).exists():
            raise SystemExit(f"font not found: {font_path} (Debian package fonts-noto-color-emoji, or give --font)")
        font = ImageFont.truetype(font_path, STRIKE)
        smallest = min(low for low, _ in SIZES.values())
        largest = max(high for _, high in SIZES.values())
        # glyphs[thing][size] is [h, w, 4] float32 0..255, colour already
        # multiplied by alpha: resampling then makes no dark fringes.
        self.glyphs = []
        for thing in self.things:
            glyph = render_glyph(font, thing.char).convert("RGBa")
            scaled = {}
            for size in range(smallest, largest + 1):
                scale = size / max(glyph.size)
                shape = [max(1, round(side * scale)) for side in glyph.size]
                scaled[size] = np.asarray(glyph.resize(shape, Image.Resampling.BICUBIC), np.float32)
            self.glyphs.append(scaled)

    def reseed(self, step):
        """A run resumed at some step must not see its first pictures again."""
        self.rng = np.random.default_rng((*self.seed, step))

    def picture(self, thing, colour, size):
        """Draws one picture: [SIDE, SIDE, 3] uint8."""
        low, high = SIZES[size]
        glyph = self.glyphs[thing][int(self.rng.integers(low, high + 1))]
        h, w, _ = glyph.shape
        dy, dx = self.rng.integers(-SHIFT, SHIFT + 1, 2)
        y = int(np.clip((SIDE - h) // 2 + dy, 0, SIDE - h))
        x = int(np.clip((SIDE - w) // 2 + dx, 0, SIDE - w))
        canvas = np.empty((SIDE, SIDE, 3), np.float32)
        canvas[:] = self.colours[colour]
        patch = canvas[y : y + h, x : x + w]
        patch *= 1 - glyph[..., 3:] / 255
        patch += glyph[..., :3]
        return (canvas + 0.5).clip(0, 255).astype(np.uint8)

    def batch(self, n, distinct=False):
        """n random pictures; `distinct` never repeats a pair of thing and colour."""
        pairs = len(self.things) * len(self.colours)
        picks = self.rng.choice(pairs, n, replace=not distinct)
        things, colours = np.divmod(picks, len(self.colours))
        pixels = np.empty((n, SIDE, SIDE, 3), np.uint8)
        captions = []
        for i, (thing, colour) in enumerate(zip(things, colours)):
            size = self.rng.choice(["", "small", "big"], p=[0.6, 0.25, 0.15])
            pixels[i] = self.picture(thing, colour, size)
            captions.append(caption(self.rng, self.things[thing], self.colour_names[colour], size))
        return Batch(pixels, things, colours, captions)
