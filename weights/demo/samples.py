#!/usr/bin/env python3
"""Draws the sample pictures of the README and the API tests into samples/. They need no model; which answers to expect is in SAMPLES.

    samples.py [--out samples]

Drawn at four times their size and reduced, so edges are smooth as in a user's own picture. The font is DejaVu Sans Bold (fonts-dejavu-core).
"""
import argparse
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf"
OVER = 4
# file: what is asked, and the answer
SAMPLES = {"shapes.png": [("What colour is the circle?", "Red."), ("Is the circle left or right of the square?", "Left.")],
           "stars.png": [("How many stars are there?", "Three."), ("What color is the triangle?", "Green.")],
           "open.png": [("What does the text say?", "OPEN")],
           "heart.jpg": [("Which shape do you see?", "A heart."), ("What does the sign say?", "I cannot tell from this picture.")]}


def canvas(w, h, ground):
    img = Image.new("RGB", (w * OVER, h * OVER), ground)
    return img, ImageDraw.Draw(img)


def star(d, x, y, radius, fill):
    points = []
    for i in range(10):
        r, a = (radius if i % 2 == 0 else 0.42 * radius) * OVER, math.pi * (i / 5 - 0.5)
        points.append((x * OVER + r * math.cos(a), y * OVER + r * math.sin(a)))
    d.polygon(points, fill=fill)


def heart(d, x, y, radius, fill):
    points = []
    for i in range(120):
        t = 2 * math.pi * i / 120
        u, v = 16 * math.sin(t) ** 3, 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append(((x + radius * u / 17) * OVER, (y - radius * v / 17) * OVER))
    d.polygon(points, fill=fill)


def draw(name):
    """The picture, at OVER times its size."""
    if name == "shapes.png":
        img, d = canvas(320, 220, (246, 246, 242))
        d.ellipse([45 * OVER, 60 * OVER, 135 * OVER, 150 * OVER], fill=(214, 32, 36))
        d.rectangle([195 * OVER, 75 * OVER, 275 * OVER, 155 * OVER], fill=(36, 72, 212))
    elif name == "stars.png":
        img, d = canvas(300, 240, (24, 26, 34))
        for x, y in ((70, 60), (215, 75), (90, 175)):
            star(d, x, y, 42, (250, 224, 44))
        d.polygon([(x * OVER, y * OVER) for x, y in ((218, 135), (258, 207), (178, 207))], fill=(38, 152, 54))
    elif name == "open.png":
        img, d = canvas(280, 140, (250, 250, 250))
        d.text((140 * OVER, 70 * OVER), "OPEN", font=ImageFont.truetype(FONT, 72 * OVER), fill=(20, 20, 24), anchor="mm")
    else:
        img, d = canvas(240, 240, (205, 222, 236))
        heart(d, 120, 125, 70, (248, 148, 188))
    return img


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=str(Path(__file__).parent / "samples"))
    out = Path(p.parse_args().out)
    out.mkdir(exist_ok=True)
    for name in SAMPLES:
        img = draw(name)
        img = img.resize((img.width // OVER, img.height // OVER), Image.LANCZOS)
        img.save(out / name, **({"quality": 90} if name.endswith("jpg") else {"optimize": True}))
        print(f"{out / name}: {img.width}x{img.height}, {(out / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
