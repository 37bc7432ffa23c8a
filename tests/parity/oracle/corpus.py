"""The synthetic text that vocabularies are trained on, and the texts that tokenizer cases are made of."""

import numpy as np

from .common import rng_for

PROSE = [
    "The small model reads a prompt and writes the next word, one token at a time. It's quick, isn't it? "
    "We've seen that they'll keep going until the end marker, and I'd say you're right.",
    "A server must never crash: bad input gives an error, a slow client gets a timeout, and memory stays bounded.",
    "Numbers such as 7, 42, 365, 1024, 65536 and 3.14159 appear next to dates like 2025-07-10 and times 12:34:56.",
    "def add(a, b):\n    return a + b\n\nfor (int i = 0; i < n; ++i) {\n\tsum += x[i] * y[i];\n}\n",
    '{"name": "get_weather", "arguments": {"city": "Paris", "days": 3, "metric": true, "note": null}}',
    "Le petit modèle répond en français, même s'il hésite parfois. Où est la gare? Ça va très bien!",
    "Das kleine Modell antwortet schnell; übrigens weiß es über Straßen und Größen Bescheid.",
    "El modelo pequeño responde en español. ¿Qué hora es? ¡Muy bien, señor Ñandú!",
    "Il modello piccolo risponde in italiano perché è più veloce di così.",
    "O modelo pequeno responde em português: não há razão para preocupação.",
    "Маленькая модель отвечает по-русски и считает до десяти.",
    "小さなモデルは日本語で答えます。速いです。",
    "小模型用中文回答问题，速度很快。",
    "작은 모델이 한국어로 대답합니다.",
    "النموذج الصغير يجيب بالعربية بسرعة.",
    "המודל הקטן עונה בעברית.",
    "छोटा मॉडल हिंदी में उत्तर देता है।",
    "Το μικρό μοντέλο απαντά στα ελληνικά.",
    "😀 😃 👍🏽 👩‍👩‍👧‍👦 🇫🇷 ❤️ ✓ → ∑ ∞ ≠ € £ ¥ … “quoted” ‘single’ — dash",
]
SYL = "ba be bi bo bu ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no nu ra re ri ro ru sa se si so su ta te ti to tu tion ing er st th".split()


def corpus(seed, tag):
    r = rng_for(seed, "corpus" + tag)
    words = ["".join(r.choice(SYL, size=int(r.integers(1, 4)))) for _ in range(300)]
    words += "the of and to in a is that it for was on are as with his they at be this have from or by one had not but what all were when".split()
    p = 1.0 / np.arange(1, len(words) + 1)
    order = r.permutation(len(words))
    p = p[np.argsort(order)]
    p /= p.sum()
    out = []
    for _ in range(400):
        n = int(r.integers(4, 16))
        s = [str(w) for w in r.choice(words, size=n, p=p)]
        if r.random() < 0.3:
            s.insert(int(r.integers(0, n)), str(int(r.integers(0, 99999))))
        line = " ".join(s)
        line = line[0].upper() + line[1:] + str(r.choice([".", "!", "?", ",", ";", ":\n", ".\n\n", "...", ")"]))
        out.append(line)
    for _ in range(6):
        out += [str(x) for x in r.permutation(np.array(PROSE, dtype=object))]
    out += ["\n\n", "    ", "\n\n\n", "  ", "\t\t"] * 20
    return out


SMOL_SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
]
VLM_ADDED = (
    ["<global-img>"]
    + [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    + ["<fake_token_around_image>", "<image>"]
    + [f"<|reserved_special_token_{i}|>" for i in range(88)]
    + ["<end_of_utterance>"]
)
VLM_V1_ADDED = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
S3_SPECIALS = [
    ("<|begin_of_text|>", 1),
    ("<|end_of_text|>", 1),
    ("<think>", 0),
    ("</think>", 0),
    ("<|finetune_right_pad_id|>", 1),
    ("<|reserved_special_token_2|>", 1),
    ("<|start_header_id|>", 1),
    ("<|end_header_id|>", 1),
    ("<|eom_id|>", 1),
    ("<|eot_id|>", 1),
    ("<|python_tag|>", 1),
    ("<|im_start|>", 1),
    ("<|im_end|>", 1),
    ("<tool_response>", 0),
    ("</tool_response>", 0),
    ("<tool_call>", 0),
    ("</tool_call>", 0),
    ("<code>", 0),
    ("</code>", 0),
    ("<|reserved_special_token_11|>", 1),
]
LLAMA3_RE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


EDGE_TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\n\n\n",
    "\r\n",
    "\t",
    " \n ",
    "a",
    " a",
    "a ",
    "  a",
    "a  b",
    "a   b    c",
    "Hello, world!",
    "Hello\n\n  world \n",
    "I'm you're he'll we've I'd it's DON'T can’t",
    "0",
    "12",
    "123",
    "1234567890",
    "3.14 1,000,000 1e-5 0xFF",
    " 42",
    "x1y22z333",
    "٣٤٥ ۱۲۳ १२३ ½ Ⅷ ²",
    "naïve café Ångström",
    "cafe\u0301 vs caf\u00e9",
    "ﬁ ligature Ⅳ ①",
    "ÀÉÎÕÜ ß ẞ İ ı",
    "😀",
    "👍🏽 ok",
    "👩‍👩‍👧‍👦 family",
    "🇫🇷🇩🇪",
    "❤️ heart \ufe0e",
    "שלום עולם",
    "مرحبا بالعالم ١٢٣",
    "\u202eRTL override\u202c",
    "こんにちは世界。",
    "你好，世界！",
    "안녕하세요",
    "สวัสดีชาวโลก",
    "नमस्ते दुनिया",
    "Привет, мир",
    "Γειά σου Κόσμε",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𝟘𝟙𝟚",
    "zero\u200bwidth\u200d\u2060joiners\ufeff",
    "nbsp\u00a0thin\u2009ideographic\u3000space",
    "line\u2028sep\u2029para\u0085nel",
    "\x00\x01\x1f\x7f",
    "tab\tsep\tvalues",
    "trailing spaces   ",
    "   leading",
    "a\u0300\u0301\u0302 combining",
    "…—–‘’“”«»",
    "def f(x):\n    if x:\n        return [1, 2, 3]\n\treturn None\n",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|>",
    "x<|im_end|>y",
    "<|im_end|><|im_end|>",
    "<|im_end",
    "<|im_start|",
    "< |im_start|>",
    "<|IM_START|>",
    "a <|endoftext|> b",
    "<image>",
    "<image><image>",
    "text<image>more",
    "<row_1_col_1><row_6_col_6><row_7_col_1>",
    "<global-img>\n\n<fake_token_around_image>",
    "<end_of_utterance>\nAssistant:",
    "<think>\n\n</think>\n",
    '<tool_call>{"name": "f"}</tool_call>',
    "<code>print(1)</code>",
    "<|reserved_special_token_2|>",
    "<mask>",
    "a <mask> b",
    "a<mask>b",
    "a  <rs>  b",
    "a \n<both>\t b",
    "word",
    "sword word words word.",
    "wordword word",
    "café cafe\u0301",
    "<a><a>b<a>bc<a>bcd",
    "a sp ace b",
    "é è é",
    "A" * 70,
    "ab" * 40,
    "na " * 30,
    "\n" * 9,
    " " * 17 + "x",
    "!" * 33,
    "=" * 64,
    "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX 12345 times; don't stop!",
]
BAD_UTF8 = [
    b"ok\xffbad",
    b"\xc3",
    b"a\xc3(",
    b"\xe2\x82",
    b"\xe2\x82\xac\xe2",
    b"\xf0\x9f\x98",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"\xf4\x90\x80\x80",
    b"\x80\x80",
    b"\xf0\x9f\x98\x80\xf0\x9f",
    b"\xe4\xbd\xa0\xe5\xa5",
    b"\xfe\xff",
    b"\xf8\x88\x80\x80\x80",
    b"x\xf0\x80\x80\x80y",
]


def random_texts(seed, n):
    r = rng_for(seed, "texts")
    pools = [
        "abcdefghij ABC",
        "0123456789 .,",
        " \n\t\r",
        "éüñçøÅßœ",
        "你好世界こんにちは한국",
        "שלוםمرحبا",
        "😀👍🏽👩‍💻❤️🇫🇷",
        "!@#$%^&*()[]{}<>|\\/'\"`~",
        "'s't're've'm'll'd",
        "\u0301\u200d\ufe0f\u00a0\u3000",
    ]
    out = []
    for _ in range(n):
        s = []
        for _ in range(int(r.integers(1, 9))):
            p = pools[int(r.integers(0, len(pools)))]
            s.append("".join(p[int(i)] for i in r.integers(0, len(p), size=int(r.integers(1, 9)))))
            if r.random() < 0.15:
                s.append(
                    str(r.choice(SMOL_SPECIALS[:3] + VLM_ADDED[:3] + VLM_V1_ADDED + ["<think>", "</think>", "<mask>"]))
                )
        out.append("".join(s))
    return out
