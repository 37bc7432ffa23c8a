"""Synthetic pictures and questions for the demo model: shapes, colours, counts, positions, printed words, and what cannot be answered.

`sample(rng, split)` draws one picture and everything that can be asked about it. Three splits differ in fonts, grounds and wording:
"train" is trained on; "dev" (watched during training) and "test" (the card's scores) use only fonts, grounds and question
templates that training never sees, and seeds of their own. Every draw comes from the numpy generator passed in, so a seed gives the same
pictures everywhere. Fonts are Debian packages: fonts-dejavu-core, fonts-liberation2, fonts-freefont-ttf, fonts-open-sans
(training), fonts-lato, fonts-roboto-unhinted (held out).
"""
import glob
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = {"red": (215, 30, 35), "green": (35, 150, 50), "blue": (35, 70, 215), "yellow": (250, 225, 40), "orange": (250, 140, 25),
           "purple": (125, 40, 160), "pink": (250, 150, 190), "brown": (120, 72, 35), "black": (15, 15, 18), "white": (248, 248, 248),
           "grey": (130, 130, 132), "cyan": (60, 210, 225)}
SHAPES = ["circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart"]
NUMBERS = ["Zero", "One", "Two", "Three", "Four", "Five", "Six"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
DECLINE = "I cannot tell from this picture."
NO_PICTURE = "I see no picture. Please attach one."
WORDS = """ABLE ACID AGED AIR ALSO AREA ARMY AWAY BABY BACK BAKE BALL BAND BANK BASE BATH BEAR BEAT BELL BEST BIKE BIRD BLUE BOAT BODY BONE
BOOK BOX BREAD BRICK BUS CAFE CAKE CALL CALM CAMP CAR CARD CARE CASH CAT CHAIR CITY CLEAN CLOCK CLOUD COAT CODE COFFEE COLD COOK COOL COPY
CORN COW CUP DAILY DANCE DARK DATA DAY DEEP DESK DOG DOOR DOWN DREAM DRINK DRY DUCK DUST EAGLE EARTH EAST EASY EAT EDGE EGG EMPTY ENTER EXIT
EYE FACE FARM FAST FIRE FISH FIVE FLAG FLOOR FLY FOOD FOOT FOREST FORK FOUR FOX FREE FRESH FRUIT FULL FUN GAME GARDEN GATE GIFT GLASS GOAT
GOLD GOOD GRASS GREEN GRID GROUP HAND HAPPY HARD HAT HEAD HELLO HELP HERO HIGH HILL HOME HOPE HORSE HOT HOTEL HOUSE ICE IDEA INK IRON JAZZ
JOB JOKE JUICE JUMP KEY KIND KING KITE KIWI LAKE LAMP LAND LAST LEAF LEFT LEMON LIFE LIGHT LION LOCK LONG LOVE LUCK LUNCH MAP MARCH MENU
MILK MIND MOON MOUSE MUSIC NAIL NEST NEW NIGHT NINE NORTH NOVA OAK OCEAN OFF OIL OLD OPEN ORANGE OVEN PAGE PAINT PANDA PAPER PARK PEACE
PEN PIANO PILOT PIZZA PLANT PLAY POND POST PULL PUSH QUEEN QUIET QUIZ RADIO RAIN READ RED RICE RIDE RING RIVER ROAD ROBOT ROCK ROOF ROOM
ROSE RUN SAFE SALE SALT SAND SAVE SEA SEED SHIP SHOE SHOP SILVER SIX SKY SLOW SMILE SNOW SOAP SOFT SOUP SOUTH SPOON STAR START STOP STORM
SUGAR SUN SWIM TABLE TALK TAXI TEA TEN TEST TIGER TIME TOOL TOWN TRAIN TREE TRUCK UNDER UNIT VAN VIDEO VIEW WAIT WALK WARM WATER WAVE WEST
WIND WINE WOLF WOOD WORD WORK YARD YEAR YES ZEBRA ZERO ZOO""".split()


# ---------------------------------------------------------------- grounds
def luminance(c):
    return 0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2]


def distance(a, b):
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(np.sqrt(((a - b) ** 2 * (0.9, 1.2, 0.7)).sum()))


def jitter(r, rgb, amount=14):
    return tuple(int(v) for v in np.clip(np.asarray(rgb) + r.integers(-amount, amount + 1, 3), 0, 255))


def ground(r, w, h, split):
    """Returns the picture, its mean colour, and the colour's name where it is plain and named."""
    kinds = ["plain", "gradient", "noise"] if split == "train" else ["radial", "checks", "stripes"]
    kind = str(r.choice(kinds, p=[0.5, 0.25, 0.25] if split == "train" else None))
    name = str(r.choice(list(COLOURS))) if r.random() < 0.6 else None
    base = np.array(jitter(r, COLOURS[name]) if name else r.integers(0, 256, 3), float)
    if split != "train" and kind != "radial" or kind != "plain":
        name = None
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    other = np.clip(base + r.uniform(-60, 60, 3), 0, 255)
    if kind == "gradient":
        a = r.uniform(0, 2 * math.pi)
        t = (np.cos(a) * x / w + np.sin(a) * y / h)
        t = (t - t.min()) / max(float(np.ptp(t)), 1e-6)
    elif kind == "radial":
        cx, cy = r.uniform(0, w), r.uniform(0, h)
        t = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
        t = t / max(float(t.max()), 1e-6)
    elif kind == "checks":
        s = max(4, int(r.uniform(0.06, 0.2) * max(w, h)))
        t = ((x // s + y // s) % 2)
        other = np.clip(base + r.uniform(-22, 22, 3), 0, 255)
    elif kind == "stripes":
        s = max(4, int(r.uniform(0.05, 0.2) * max(w, h)))
        t = ((x + y * r.uniform(-1, 1)) // s) % 2
        other = np.clip(base + r.uniform(-22, 22, 3), 0, 255)
    else:
        t = np.zeros((h, w), np.float32)
    img = base + (other - base) * t[..., None]
    if kind == "noise" or r.random() < 0.1:
        img = img + r.normal(0, r.uniform(3, 22), (h, w, 1 if r.random() < 0.5 else 3))
    img = np.clip(img, 0, 255).astype(np.uint8)
    return Image.fromarray(img), img.reshape(-1, 3)[:: max(1, w * h // 400)].astype(float), name


# ---------------------------------------------------------------- shapes
def polygon(shape, angle):
    """Unit-circle outline of a shape, or None for those drawn otherwise."""
    def ring(n, start, radii=(1.0,)):
        return [(radii[i % len(radii)] * math.cos(start + 2 * math.pi * i / n), radii[i % len(radii)] * math.sin(start + 2 * math.pi * i / n)) for i in range(n)]
    up = -math.pi / 2
    if shape == "square":
        return ring(4, math.pi / 4 + angle * 0.6)
    if shape == "diamond":
        return [(0.75 * x, y) for x, y in ring(4, up + angle * 0.3)]
    if shape == "triangle":
        return ring(3, up + angle)
    if shape == "star":
        return ring(10, up + angle, (1.0, 0.42))
    if shape == "cross":
        a = 0.33
        pts = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
        c, s = math.cos(angle * 0.6), math.sin(angle * 0.6)
        return [(x * c - y * s, x * s + y * c) for x, y in pts]
    if shape == "heart":
        t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        return [(float(16 * np.sin(u) ** 3) / 17, float(-(13 * np.cos(u) - 5 * np.cos(2 * u) - 2 * np.cos(3 * u) - np.cos(4 * u)) / 17)) for u in t]
    return None


def draw_shape(r, img, shape, cx, cy, rad, rgb, ground_rgb):
    s = 2 if img.width * img.height < 90000 and r.random() < 0.6 else 1      # some edges smooth, some jagged, as users' pictures are
    box = [int(cx - rad * 1.15) - 2, int(cy - rad * 1.15) - 2, int(cx + rad * 1.15) + 3, int(cy + rad * 1.15) + 3]
    mask = Image.new("L", ((box[2] - box[0]) * s, (box[3] - box[1]) * s), 0)
    d = ImageDraw.Draw(mask)
    mx, my, mr = (cx - box[0]) * s, (cy - box[1]) * s, rad * s
    pts = polygon(shape, float(r.uniform(-0.3, 0.3)))
    if pts:
        d.polygon([(mx + x * mr, my + y * mr) for x, y in pts], fill=255)
    else:
        d.ellipse([mx - mr, my - mr, mx + mr, my + mr], fill=255)
        if shape == "ring":
            k = float(r.uniform(0.5, 0.68))
            d.ellipse([mx - mr * k, my - mr * k, mx + mr * k, my + mr * k], fill=0)
    if s > 1:
        mask = mask.resize((mask.width // s, mask.height // s), Image.BILINEAR)
    img.paste(Image.new("RGB", mask.size, rgb), (box[0], box[1]), mask)


def pick_colour(r, pixels, avoid=()):
    names = [n for n in COLOURS if n not in avoid]
    for _ in range(30):
        n = str(r.choice(names))
        rgb = jitter(r, COLOURS[n])
        d = np.sqrt((((pixels - np.asarray(rgb)) ** 2) * (0.9, 1.2, 0.7)).sum(1))
        if np.quantile(d, 0.05) > 70:
            return n, rgb
    light = pixels.mean() < 128
    n = "white" if light else "black"
    return n, COLOURS[n]


# ---------------------------------------------------------------- printed words
_fonts = {}


def fonts(split):
    if split not in _fonts:
        root = "/usr/share/fonts/truetype/"
        if split == "train":
            pats = ["dejavu/DejaVuSans*.ttf", "dejavu/DejaVuSerif*.ttf", "liberation*/LiberationS*.ttf", "liberation*/LiberationM*.ttf",
                    "freefont/FreeS*.ttf", "freefont/FreeMono*.ttf", "open-sans/OpenSans-*.ttf"]
        else:
            pats = ["lato/Lato-Regular.ttf", "lato/Lato-Bold.ttf", "lato/Lato-Medium.ttf", "lato/Lato-Black.ttf", "roboto/unhinted/**/Roboto-Regular.ttf",
                    "roboto/unhinted/**/Roboto-Bold.ttf", "roboto/unhinted/**/Roboto-Medium.ttf"]
        found = sorted({f for p in pats for f in glob.glob(root + p, recursive=True)})
        if not found:
            raise SystemExit(f"no fonts of the {split} split: install the packages named in data.py")
        _fonts[split] = found
    return _fonts[split]


def random_text(r):
    k = r.random()
    if k < 0.55:
        return str(r.choice(WORDS))
    if k < 0.73:
        return "".join(r.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), size=int(r.integers(2, 6))))
    return "".join(r.choice(list("0123456789"), size=int(r.integers(1, 5))))


def draw_text(r, img, text, rgb, split, width_share, cx=None, cy=None):
    font_file = str(r.choice(fonts(split)))
    size = 40
    f = ImageFont.truetype(font_file, size)
    l, t, rr, b = f.getbbox(text)
    want = width_share * img.width
    size = int(min(size * want / max(rr - l, 1), size * 0.62 * img.height / max(b - t, 1)))
    f = ImageFont.truetype(font_file, max(size, 7))
    l, t, rr, b = f.getbbox(text)
    w, h = rr - l, b - t
    x = (r.uniform(0.02, 0.98) * (img.width - w)) if cx is None else cx - w / 2
    y = (r.uniform(0.02, 0.98) * (img.height - h)) if cy is None else cy - h / 2
    x, y = min(max(x, 1), max(1, img.width - w - 1)), min(max(y, 1), max(1, img.height - h - 1))
    ImageDraw.Draw(img).text((x - l, y - t), text, font=f, fill=rgb)
    ends = [f.getlength(text[:i]) for i in range(len(text) + 1)]
    return [(ch.upper(), (x - l + (a + b) / 2) / img.width, (y + h / 2) / img.height) for ch, a, b in zip(text, ends, ends[1:])]


# ---------------------------------------------------------------- scenes
class Scene:
    """What is in the picture: objects = [(shape, colour, cx, cy)] with centres in 0..1, sorted left to right; text and its colour, or None;
    extents = [(rx, ry)] of the objects; glyphs = [(letter, cx, cy)]."""

    def __init__(self):
        self.objects, self.extents, self.glyphs, self.text, self.text_colour, self.ground = [], [], [], None, None, None

    def cells(self, g):
        """For each cell of a g x g grid: the object that covers its centre and the letter centred in it, as (shape, colour, letter) numbers with 0 for nothing."""
        out = np.zeros((g, g, 3), np.int64)
        middle = (np.arange(g) + 0.5) / g
        for (sh, c, x, y), (rx, ry) in zip(self.objects, self.extents):
            inside = ((middle[None, :] - x) / rx) ** 2 + ((middle[:, None] - y) / ry) ** 2 < 0.8
            inside[min(int(y * g), g - 1), min(int(x * g), g - 1)] = True
            out[inside, :2] = SHAPES.index(sh) + 1, list(COLOURS).index(c) + 1
        for ch, x, y in self.glyphs:
            out[min(max(int(y * g), 0), g - 1), min(max(int(x * g), 0), g - 1), 2] = LETTERS.index(ch) + 1
        return out.reshape(g * g, 3)


def canvas_size(r):
    a = math.exp(r.uniform(-0.55, 0.55))
    long = int(r.choice([64, 96, 128, 160, 200, 256, 320, 420], p=[.08, .17, .2, .2, .15, .1, .06, .04]))
    return (long, max(40, int(long / a))) if a >= 1 else (max(40, int(long * a)), long)


def place(r, n, w, h):
    """Centres and radii of n shapes that do not touch."""
    out = []
    short = min(w, h)
    for _ in range(200):
        if len(out) == n:
            break
        rad = short * float(r.uniform(0.10, 0.17 if n > 3 else 0.22 if n > 1 else 0.40))
        cx, cy = r.uniform(rad * 1.1, w - rad * 1.1), r.uniform(rad * 1.1, h - rad * 1.1)
        if all(math.hypot(cx - x, cy - y) > 1.12 * (rad + q) for x, y, q in out):
            out.append((float(cx), float(cy), rad))
    return out


def scene(r, split):
    w, h = canvas_size(r)
    img, pixels, gname = ground(r, w, h, split)
    s = Scene()
    s.ground = gname
    kind = r.random()
    if kind < (0.44 if split == "train" else 0.36):                        # printed words, alone or beside one shape
        s.text = random_text(r)
        s.text_colour, rgb = pick_colour(r, pixels)
        shown = s.text.lower() if r.random() < 0.15 else s.text
        if r.random() < 0.15 and h >= w * 0.8:
            rad = 0.16 * min(w, h)
            cx, cy = float(r.uniform(rad * 1.2, w - rad * 1.2)), float(h - rad * 1.3)
            name, c = pick_colour(r, pixels)
            shape = str(r.choice(SHAPES))
            draw_shape(r, img, shape, cx, cy, rad, c, None)
            s.objects.append((shape, name, cx / w, cy / h))
            s.extents.append((rad / w, rad / h))
            s.glyphs = draw_text(r, img, shown, rgb, split, float(r.uniform(0.6, 0.95)), cy=0.3 * h)
        else:
            lo = 0.35 if len(s.text) < 4 else 0.62
            s.glyphs = draw_text(r, img, shown, rgb, split, float(r.uniform(lo, 0.97)))
        return img, s
    if kind < 0.62:
        n = int(r.choice([1, 2], p=[0.4, 0.6]))
    else:
        n = int(r.choice([2, 3, 4, 5, 6], p=[0.15, 0.27, 0.26, 0.18, 0.14]))
    same = r.random() < 0.4 and n > 2                                      # many of one kind, for counting
    shape0, colour0 = str(r.choice(SHAPES)), None
    used = []
    for cx, cy, rad in place(r, n, w, h):
        shape = shape0 if same and r.random() < 0.75 else str(r.choice(SHAPES))
        if colour0 and same and r.random() < 0.5:
            name, rgb = colour0
        else:
            name, rgb = pick_colour(r, pixels, used[:3] if r.random() < 0.6 else ())
        colour0 = colour0 or (name, rgb)
        used.append(name)
        draw_shape(r, img, shape, cx, cy, rad, rgb, None)
        s.objects.append((shape, name, cx / w, cy / h))
        s.extents.append((rad / w, rad / h))
    order = sorted(range(len(s.objects)), key=lambda i: s.objects[i][2])
    s.objects, s.extents = [s.objects[i] for i in order], [s.extents[i] for i in order]
    return img, s


# ---------------------------------------------------------------- questions
# For each kind: wordings of training, then wordings that only the held-out splits use. {C} stands for colour or color.
ASK = {
    "describe": (["Describe the picture.",
                  "What can you see?", "What is drawn here?", "What's this?", "What objects are in the picture?", "List the objects.", "List what you see.", "Describe it.", "Describe what is shown.", "What does the image contain?", "What is in this picture?", "Give me a caption.", "Say what is in the image.", "Which objects are shown?", "What is this a picture of?",
                   "Describe this image.", "What is in the picture?", "What do you see?", "What is shown here?", "Caption this.", "Tell me what you see.",
                  "What's in this image?", "Give a short description.", "Please describe what you see.", "Can you describe the image?"],
                 ["Write a caption for this picture.", "What does this picture show?", "Please describe the picture."]),
    "colour_of": (["What {C} is the {s}?",
                  "What's the {C} of the {s}?", "What's the {s}'s {C}?", "Do you know the {C} of the {s}?", "Give the {C} of the {s}.", "Say which {C} the {s} is.", "The {s}: what {C}?", "Could you tell me what {C} the {s} is?", "I want to know the {C} of the {s}.", "Which {C} is that {s}?", "Is the {s} red, blue or some other {C}?",
                   "Which {C} is the {s}?", "What is the {C} of the {s}?", "The {s} is what {C}?", "Tell me the {C} of the {s}.", "{C} of the {s}?", "Name the {s}'s {C}.",
                   "what {C} is the {s}", "What {C} does the {s} have?", "In what {C} is the {s} drawn?"],
                  ["Can you tell me the {C} of the {s}?", "Which {C} does the {s} have?", "Please name the {C} of the {s}."]),
    "colour_it": (["What {C} is it?",
                  "What is its {C}?", "Which {C} is it?", "Which {C} is this?", "Tell me the {C}.", "What's the {C}?", "Say the {C} of the shape.", "What {C} is the object?", "What is the {C}?", "What {C} do you see?",
                   "What {C} is the shape?", "Which {C} do you see?", "What is the {C} of the object?", "Name the {C} of the shape.", "What {C} is this?"],
                  ["Tell me which {C} it is.", "Which {C} is the shape?"]),
    "shape_it": (["Which shape do you see?",
                  "Identify the shape.", "Which shape is it?", "What shape do you see?", "Say which shape you see.", "What figure is this?", "What form does it have?", "What is the shape here?", "What kind of shape is it?", "What's the shape?", "Which figure do you see?",
                   "What shape is it?", "What shape is this?", "Name the shape.", "What is the shape?", "What kind of shape is shown?", "Which shape is in the picture?"],
                 ["What shape is in this image?", "Tell me the shape.", "Which shape is this?"]),
    "shape_of": (["What shape is {c}?",
                  "What shape does the {c} object have?", "What is the shape of the {c} object?", "The {c} object: what shape is it?", "What kind of shape is {c}?", "Tell me the shape that is {c}.", "Which of the shapes is {c}?", "What is {c} in the picture?", "What's the {c} thing?", "Say what shape is {c}.", "What {c} thing is there?", "What form is the {c} one?",
                   "Which shape is {c}?", "What is the {c} shape?", "Name the {c} shape.", "The {c} one is what shape?", "What shape is the {c} object?", "What {c} shape do you see?"],
                 ["Which shape is the {c} one?", "Tell me what shape the {c} object is."]),
    "count_all": (["How many shapes are there?",
                  "How many figures are there?", "How many shapes are in the picture?", "How many shapes?", "Count all shapes.", "Count everything.", "Count the things you see.", "Tell me how many shapes there are.", "How many objects do you see?", "Number of shapes?", "How many objects are in the image?", "How many shapes are shown?", "What is the total number of objects?", "How many are there?",
                   "How many objects are there?", "Count the shapes.", "How many shapes do you see?", "What is the number of shapes?", "How many things are in the picture?"],
                  ["How many shapes are in this image?", "Please count the objects.", "How many shapes can you see?"]),
    "count": (["How many {p} are there?",
                  "Number of {p}?", "How many {p} are shown?", "How many {p} are in the image?", "Count all the {p}.", "What number of {p} is there?", "Can you count the {p}?", "How many {p} does it show?", "Give the number of {p}.", "Are there {p}, and how many?", "How many {p} in total?", "Say how many {p} you see.",
                   "How many {p} do you see?", "Count the {p}.", "What is the number of {p}?", "How many {p} are in the picture?", "how many {p}", "How many {p}?", "Tell me how many {p} there are."],
              ["How many {p} can you see?", "Please count the {p}.", "How many {p} does the picture have?"]),
    "left_right": (["Is the {a} left or right of the {b}?",
                  "Where is the {a} relative to the {b}, left or right?", "Is the {a} left of the {b} or right of it?", "Which side of the {b} is the {a} on?", "Is the {a} on the left side or the right side of the {b}?", "Left or right of the {b}: where is the {a}?", "The {a} is on which side of the {b}?", "Compared with the {b}, is the {a} left or right?", "Do you see the {a} left or right of the {b}?", "Say if the {a} is left or right of the {b}.",
                   "Is the {a} to the left or to the right of the {b}?", "On which side of the {b} is the {a}, left or right?", "Is the {a} on the left or the right of the {b}?",
                   "Is the {a} left or right from the {b}?", "Left or right: is the {a} on that side of the {b}?", "Where is the {a}, left or right of the {b}?", "Where is the {a} from the {b}: left or right?", "Right or left of the {b}: where do you see the {a}?",
                   "Left or right: tell me where the {a} lies, seen from the {b}.", "Does the {a} lie to the left or right of the {b}?", "Does the {a} appear left or right of the {b}?", "Seen from the {b}, is the {a} left or right?", "The {a}: left or right of the {b}?",
                   "Right or left: on which side of the {b} is the {a}?", "Is the {a} further left or further right than the {b}?", "Has the {a} been drawn left or right of the {b}?", "To which side of the {b} is the {a}, left or right?", "From the {b}, is the {a} to the left or right?"],
                   ["Does the {a} stand left or right of the {b}?", "Left or right: where is the {a} from the {b}?"]),
    "above_below": (["Is the {a} above or below the {b}?",
                  "Is the {a} above the {b} or below it?", "Where is the {a} relative to the {b}, above or below?", "Above or below the {b}: where is the {a}?", "Compared with the {b}, is the {a} above or below?", "Do you see the {a} above or below the {b}?", "Say if the {a} is above or below the {b}.", "Is the {a} placed above or below the {b}?", "The {a}: above or below the {b}?",
                   "Is the {a} over or under the {b}, above or below?", "Is the {a} higher or lower than the {b}, above or below?",
                   "Where is the {a}, above or below the {b}?", "Where is the {a} from the {b}: above or below?", "Above or below: is the {a} there, seen from the {b}?", "Does the {a} stand above or below the {b}?", "Does the {a} appear above or below the {b}?",
                   "Seen from the {b}, is the {a} above or below?", "Below or above: tell me where the {a} is, compared with the {b}.", "Has the {a} been drawn above or below the {b}?", "Below or above the {b}: where do you see the {a}?", "From the {b}, is the {a} above or below?",
                   "Above or below: say where the {a} lies from the {b}."],
                    ["Above or below: where is the {a} from the {b}?", "Does the {a} lie above or below the {b}?"]),
    "where": (["Where is the {a}?",
                  "Where's the {a}?", "Where is the {a} in the image?", "Where is the {a} placed?", "Tell me where the {a} is.", "Which part of the picture has the {a}?", "Locate the {a}.", "Find the {a}.", "What part of the image shows the {a}?", "Say where the {a} is.", "At which place is the {a}?", "Where does the {a} lie?",
                   "Where in the picture is the {a}?", "In which part of the image is the {a}?", "What is the position of the {a}?", "Where do you see the {a}?"],
              ["Where can I find the {a}?", "In what part of the picture is the {a}?"]),
    "exists": (["Is there a {a}?",
                  "Is there any {a} in the picture?", "Is a {a} there?", "Is there a {a} in this image?", "Can you find a {a}?", "Does it contain a {a}?", "Is there a {a} here?", "Does the image show a {a}?", "Any {a} here?", "Is any {a} visible?", "Tell me if there is a {a}.",
                   "Do you see a {a}?", "Is a {a} in the picture?", "Does the picture show a {a}?", "Can you see a {a}?"],
               ["Does the image have a {a}?", "Is there any {a} here?"]),
    "leftmost": (["What is on the far left?",
                  "Which shape is furthest left?", "What is at the left edge?", "Name the leftmost object.", "Which object is on the far left?", "What is the object on the left?",
                   "Which object is leftmost?", "What is the leftmost shape?", "What do you see on the left?"], ["What stands furthest to the left?"]),
    "rightmost": (["What is on the far right?",
                  "Which shape is furthest right?", "What is at the right edge?", "Name the rightmost object.", "Which object is on the far right?", "What is the object on the right?",
                   "Which object is rightmost?", "What is the rightmost shape?", "What do you see on the right?"], ["What stands furthest to the right?"]),
    "read": (["What does the text say?",
                  "What is the word?", "What does this say?", "What's written?", "What text is shown?", "What are the letters?", "Tell me the word.", "Tell me what is written.", "Which text is in the picture?", "What does it read?", "Which letters or digits do you see?", "What is printed?", "Spell the text.", "What text is in the image?", "What does the writing say?", "What number is shown?",
                   "What is written here?", "Read the text.", "What word is shown?", "What does it say?", "Which word do you see?", "What is the text?", "Read the word.", "What does the sign say?",
              "What number or word is printed?", "Can you read the text?", "Transcribe the text.", "What is written in the picture?"],
             ["Please read what is written.", "What does the printed text say?", "What text do you see?"]),
    "text_colour": (["What {C} is the text?",
                  "What is the {C} of the text?", "What {C} are the letters?", "Which {C} is the text?", "What {C} is the word?", "Name the {C} of the writing.", "What {C} do the letters have?",
                   "What {C} is the writing?", "In what {C} is the text written?", "Which {C} are the letters?"], ["Tell me the {C} of the text."]),
    "ground": (["What {C} is the background?",
                  "What's the {C} of the background?", "What {C} is the ground?", "Which {C} does the background have?", "What {C} is the picture's background?", "Name the background {C}.",
                   "What is the background {C}?", "Which {C} is the background?", "What {C} is behind the shapes?"], ["Tell me the {C} of the background."]),
    "decline": (["What is the person's name?", "How old is the person?", "What time is it?", "Where was this picture taken?", "Who drew this?", "What is behind the shapes?", "How heavy is it?", "What is the dog doing?",
                 "What breed is the cat?", "Which city is this?", "What is the weather like?", "How much does it cost?", "Who took the photo?", "What is the man wearing?", "What happens next?", "When was this made?",
                 "What is the phone number?", "What song is playing?", "Is the woman happy?", "What brand is the car?", "What does it smell like?", "Why is it there?", "Who is in the picture?", "What day is it?",
                 "How tall is the building?", "What is the child holding?", "What language do they speak?", "How many people are there?", "What is the name of the street?", "Who owns this?"],
                ["What is the boy's name?", "Which country is this?", "How old is the dog?", "Who made this picture?", "What is the girl eating?", "What year was this taken?", "How fast is the car?",
                 "What is the teacher saying?", "Where does the man live?", "What colour are her eyes?"]),
}


# Questions that no picture of ours answers, for training: one of each slot is filled in.
SLOTS = {"who": "person man woman lady child king driver artist player doctor baby sister brother friend student neighbour".split(), "animal": "dog cat horse bird fish cow".split(),
         "doing": ["doing", "wearing", "holding", "thinking", "reading", "drinking", "looking at", "cooking", "playing"],
         "did": "drew painted took owns sent wrote found built".split(), "done": "drawn painted taken sold found built".split(),
         "adj": "heavy expensive far loud warm old deep strong cold tall".split(), "it": ["it", "the shape", "the house", "the river", "the tree", "this", "the picture", "the train"],
         "place": "city town street museum planet room school village".split(), "time": "time day month season hour".split(), "sense": "smell taste sound feel".split(),
         "mood": "happy sad angry tired rich".split(), "part": "hair shirt hat coat car house".split(), "prep": "behind inside under".split(),
         "what": ["phone number", "address", "price", "title", "date", "weather", "job", "temperature"]}
UNANSWERABLE = ["What is the {who}'s name?", "What is the name of the {who}?", "How old is the {who}?", "What is the {who} {doing}?", "Where is the {who} going?", "Where was this {done}?", "Where does the {animal} sleep?",
                "Who {did} this?", "Who {did} the picture?", "What {time} is it?", "When was this {done}?", "How {adj} is {it}?", "Which {place} is this?", "What {place} do you see?", "Why is the {who} {mood}?", "Is the {who} {mood}?",
                "What is the {animal} {doing}?", "What breed is the {animal}?", "What is the {animal} called?", "What does it {sense} like?", "What {C} is the {who}'s {part}?", "What is {prep} the shapes?", "What is the {what}?", "Tell me the {what}.",
                "What did the {who} say?", "What will the {who} do next?", "Where does the {who} work?", "Who is the {who}?", "Which {who} is this?", "Tell me the {who}'s age.", "How many {who}s are famous?", "Does the {who} like the {animal}?"]
LEADS = ["Tell me, ", "Look at the picture. ", "Hey, ", "Question: ", "I would like to know: ", "Look: ", "Say, ", "Quick question: ", "Hi! ", "And now: ", "Excuse me, ", "In this image: "]
TAILS = [" Answer briefly.", " Please.", " Thanks.", " Answer in one word.", " Please answer.", " Be short.", " Tell me."]


def reword(r, q):
    """A user's own ways with a question of training: a lead, a tail, small letters, no full stop. Never a held-out wording."""
    k = r.random()
    if k < 0.15:
        lead = str(r.choice(LEADS))
        q = lead + (q if lead[-2] in ".!:" else q[0].lower() + q[1:])
    elif k < 0.23:
        q = q + str(r.choice(TAILS))
    elif k < 0.31:
        q = q[0].lower() + q[1:]
    if r.random() < 0.08:
        q = q.rstrip(".?")
    return q


def unanswerable(r):
    q = str(r.choice(UNANSWERABLE))
    for slot, fills in SLOTS.items():
        q = q.replace("{" + slot + "}", str(r.choice(fills)))
    return q


def spelled(r, text, **kw):
    c = "colour" if r.random() < 0.5 else "color"
    if text.startswith("{C}"):
        c = c.capitalize()
    return text.replace("{C}", c).format(**kw)


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def listing(parts):
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def caption(s):
    things = [article(f"{c} {sh}") for sh, c, _, _ in s.objects]
    if s.text:
        things.insert(0, f"the text {s.text} in {s.text_colour}")
    t = listing(things)
    return t[0].upper() + t[1:] + "."


def region(x, y):
    """Name of the part of the picture, or None near a border between parts."""
    def third(v):
        return 0 if v < 0.30 else 2 if v > 0.70 else 1 if 0.40 < v < 0.60 else None
    i, j = third(y), third(x)
    if i is None or j is None:
        return None
    return [["Top left", "Top", "Top right"], ["Left", "Centre", "Right"], ["Bottom left", "Bottom", "Bottom right"]][i][j]


def questions(r, s, split):
    """Everything askable: (kind, group, question, answer, mentions). group is one of colour, shape, count, position, read, decline, other;
    mentions are the objects a question speaks of, as (words, number in s.objects)."""
    out = []

    def ask(kind, group, answer, mentions=(), **kw):
        forms = ASK[kind][0 if split == "train" else 1]
        q = unanswerable(r) if kind == "decline" and split == "train" and r.random() < 0.75 else str(r.choice(forms))
        q = spelled(r, q, **kw)
        out.append((kind, group, reword(r, q) if split == "train" else q, answer, mentions))
    obj = s.objects
    shapes, colours = [o[0] for o in obj], [o[1] for o in obj]
    cap = str.capitalize
    ask("describe", "other", caption(s))
    if len(obj) == 1:
        ask("colour_it", "colour", cap(colours[0]) + ".")
        ask("shape_it", "shape", cap(article(shapes[0])) + ".")
    for k, (sh, c, x, y) in enumerate(obj):
        if shapes.count(sh) == 1:
            ask("colour_of", "colour", cap(c) + ".", [(sh, k)], s=sh)
        if colours.count(c) == 1:
            ask("shape_of", "shape", cap(article(sh)) + ".", [(c, k)], c=c)
        one = sh if shapes.count(sh) == 1 else f"{c} {sh}" if [o[:2] for o in obj].count((sh, c)) == 1 else None
        if one and r.random() < 0.2:
            one = f"{c} {sh}"
        if one and region(x, y):
            ask("where", "position", region(x, y) + ".", [(one, k)], a=one)
    if obj:
        ask("count_all", "count", NUMBERS[len(obj)] + ".")
        for sh in dict.fromkeys(shapes):
            p = "crosses" if sh == "cross" else sh + "s"
            ask("count", "count", NUMBERS[shapes.count(sh)] + ".", p=p)
        c = str(r.choice(colours))
        ask("count", "count", NUMBERS[colours.count(c)] + ".", p=c + " shapes")
    absent = [sh for sh in SHAPES if sh not in shapes]
    sh = str(r.choice(absent))
    ask("exists", "other", "No.", a=sh)
    ask("colour_of", "decline", DECLINE, s=sh)
    if r.random() < 0.3:
        ask("count", "count", "Zero.", p="crosses" if sh == "cross" else sh + "s")
    if obj:
        i = int(r.integers(len(obj)))
        ask("exists", "other", "Yes.", a=shapes[i] if r.random() < 0.6 else f"{colours[i]} {shapes[i]}")
        wrong = [c for c in COLOURS if (shapes[i], c) not in [o[:2] for o in obj]]
        ask("exists", "other", "No.", a=f"{str(r.choice(wrong))} {shapes[i]}")
    for _ in range(2 if len(obj) > 1 else 0):
        i, j = (int(v) for v in r.choice(len(obj), 2, replace=False))
        if [o[:2] for o in obj].count(obj[i][:2]) > 1 or [o[:2] for o in obj].count(obj[j][:2]) > 1:
            continue
        a = shapes[i] if shapes.count(shapes[i]) == 1 and r.random() < 0.7 else f"{colours[i]} {shapes[i]}"
        b = shapes[j] if shapes.count(shapes[j]) == 1 and r.random() < 0.7 else f"{colours[j]} {shapes[j]}"
        dx, dy = obj[i][2] - obj[j][2], obj[i][3] - obj[j][3]
        if abs(dx) > 0.12:
            ask("left_right", "position", "Left." if dx < 0 else "Right.", [(a, i), (b, j)], a=a, b=b)
        if abs(dy) > 0.12:
            ask("above_below", "position", "Above." if dy < 0 else "Below.", [(a, i), (b, j)], a=a, b=b)
    if len(obj) > 1:
        if obj[1][2] - obj[0][2] > 0.1:
            ask("leftmost", "other", cap(article(f"{colours[0]} {shapes[0]}")) + ".")
        if obj[-1][2] - obj[-2][2] > 0.1:
            ask("rightmost", "other", cap(article(f"{colours[-1]} {shapes[-1]}")) + ".")
    if s.text:
        ask("read", "read", s.text)
        ask("text_colour", "other", cap(s.text_colour) + ".")
    elif r.random() < 0.6:
        ask("read", "decline", DECLINE)
    if s.ground:
        ask("ground", "other", cap(s.ground) + ".")
    ask("decline", "decline", DECLINE)
    return out


for _trained, _held in ASK.values():
    if set(_trained) & set(_held):
        raise SystemExit(f"held-out wording in the training list: {set(_trained) & set(_held)}")


# ---------------------------------------------------------------- about Spillway itself (no picture)
ABOUT = [
    (["What is Spillway?", "Tell me about Spillway.", "Explain Spillway.", "what's spillway", "What does Spillway do?"],
     "Spillway is a model server. It runs small language and vision models on your own machine behind the OpenAI API."),
    (["Who are you?", "What are you?", "What model are you?", "What is your name?", "Introduce yourself."],
     "I am the demo model of Spillway, a tiny vision model that knows shapes, colours and short words."),
    (["How do I start Spillway?", "How do I run Spillway?", "How can I start the server?", "How do I start it?"], "Type make run in the project folder."),
    (["Does Spillway need a GPU?", "Do I need a GPU?", "Can it run without a GPU?", "Is a GPU required?"], "No. It runs on the CPU, and much faster on an NVIDIA GPU."),
    (["Which API does Spillway speak?", "What API do you use?", "Which API is it?", "Is it compatible with OpenAI?"], "The OpenAI API. Point the SDK's base URL at it."),
    (["Which models does Spillway serve?", "What models can it run?", "Which models are supported?"], "SmolLM and SmolVLM models."),
    (["Where does Spillway listen?", "Which port does it use?", "What is the address of the server?"], "On 127.0.0.1, port 8080."),
    (["What language is Spillway written in?", "What is Spillway written in?", "Which programming language is it?"], "In C, with CUDA kernels."),
    (["What is the licence of Spillway?", "What is the license?", "Is Spillway open source?", "Which licence does it have?"], "Apache 2.0."),
    (["What happens when the GPU is full?", "What if the GPU is busy?", "What does overflow mean?"], "Requests overflow to hosted providers, if you allow it."),
    (["What can you do?", "What can I ask you?", "How can you help me?", "Help"], "Show me a picture with shapes or a short word, and ask about colours, counts, places or the text."),
    (["How do I send a picture?", "How can I attach an image?", "How do I show you a picture?"], "Put it in the message as an image_url part with a data URL."),
    (["Hello", "Hi", "Hello!", "Hi there", "Hey", "Good morning", "hello there"], "Hello! Show me a picture or ask me about Spillway."),
    (["Thanks", "Thank you", "Thank you!", "thanks a lot", "Great, thanks"], "You are welcome."),
    (["Bye", "Goodbye", "See you"], "Goodbye."),
    (["How are you?", "How do you do?"], "I am fine, thank you."),
    (["How big are you?", "How many parameters do you have?", "What size are you?"], "I have fewer than six million parameters."),
    (["Who made you?", "Who trained you?", "Where do you come from?"], "The Spillway project trained me on synthetic pictures."),
    (["Can you watch video?", "Can you hear sound?", "Can you write code?", "Can you do maths?", "Write a poem.", "What is the capital of France?", "Tell me a joke.", "What is 2 + 2?", "Translate this to German."],
     "I am only a small demo. Ask me about shapes, colours or Spillway."),
]
PICTURE_KINDS = ["describe", "colour_it", "shape_it", "count_all", "read", "colour_of", "count", "where"]


def text_only(r, split="train"):
    """One question without a picture and its answer."""
    if r.random() < 0.2:
        kind = str(r.choice(PICTURE_KINDS))
        sh = str(r.choice(SHAPES))
        return spelled(r, str(r.choice(ASK[kind][0])), s=sh, p=sh + "s", a=sh), NO_PICTURE
    forms, answer = ABOUT[int(r.integers(len(ABOUT)))]
    q = str(r.choice(forms))
    if r.random() < 0.15:
        q = q.lower()
    return q, answer


def corpus():
    """All wordings, for the tokenizer."""
    out = []
    for train, held in ASK.values():
        for q in train + held:
            for c in ("colour", "color", "Colour", "Color"):
                out.append(q.replace("{C}", c).replace("{s}", "circle").replace("{p}", "squares").replace("{a}", "red triangle").replace("{b}", "star").replace("{c}", "blue"))
    for forms, answer in ABOUT:
        out += forms + [answer] * 3
    r = np.random.default_rng(5)
    for c in COLOURS:
        for s in SHAPES:
            out += [f"A {c} {s}, {article(c + ' ' + s)} and a {c} {s}.", f"{c.capitalize()}. A {s}. {s}s"] * 2
    out += [n + "." for n in NUMBERS] * 4 + [DECLINE, NO_PICTURE] * 6
    out += ["Top left. Top right. Bottom left. Bottom right. Centre. Left. Right. Above. Below. Yes. No. The text in"] * 6
    out += ["User: Assistant: System:"] * 20
    return [str(x) for x in r.permutation(np.array(out, dtype=object))]


# ---------------------------------------------------------------- exact preprocessing (one tile)
def to_tile(img, edge):
    """The Idefics3 image processor with size.longest_edge == max_image_size.longest_edge == edge: two LANCZOS resizes."""
    w, h = img.size
    a = w / h
    if w >= h:
        w1, h1 = edge, int(edge / a)
        h1 += h1 % 2
    else:
        h1, w1 = edge, int(edge * a)
        w1 += w1 % 2
    img = img.resize((max(w1, 1), max(h1, 1)), Image.LANCZOS)
    return np.asarray(img.resize((edge, edge), Image.LANCZOS))


def sample(r, split="train", edge=96):
    """uint8 tile (edge, edge, 3), the picture itself, its scene, and its questions."""
    img, s = scene(r, split)
    return to_tile(img, edge), img, s, questions(r, s, split)
