"""Section tok: one tokenizer.json a kind, and encode, decode, invalid UTF-8 and streaming cases for it.

The kinds are the pipelines that the Smol model files use (smollm2, smolvlm, smolvlm_v1, smollm3), plus llama3_bos (a template
post-processor), edge (added-token flags, NFC) and spm (byte fallback).
"""

import codecs
import json

from .common import jdump, rng_for
from .corpus import (
    BAD_UTF8,
    EDGE_TEXTS,
    LLAMA3_RE,
    S3_SPECIALS,
    SMOL_SPECIALS,
    VLM_ADDED,
    VLM_V1_ADDED,
    corpus,
    random_texts,
)


def train_bpe(seed, tag, vocab_size, pre, specials, ignore_merges=False):
    from tokenizers import Tokenizer, models, trainers, pre_tokenizers

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre
    tr = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
    )
    t.train_from_iterator(corpus(seed, tag), trainer=tr)
    j = json.loads(t.to_str())
    j["model"]["ignore_merges"] = ignore_merges
    return j


def byte_level_decoder():
    from tokenizers import decoders

    return decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)


def build_smol(base, added):
    """The SmolLM2 / SmolVLM pipeline: single digits, then byte level."""
    from tokenizers import AddedToken, Tokenizer

    t = Tokenizer.from_str(json.dumps(base))
    t.pre_tokenizer = smol_pre_tokenizer()
    t.decoder = byte_level_decoder()
    for tokens in (SMOL_SPECIALS, added):
        t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in tokens])
    return t


def smol_pre_tokenizer():
    from tokenizers import pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])


def build_smollm3(seed):
    """The SmolLM3 / Llama 3 pipeline: a regular expression, then byte level; whole words of the vocabulary come before merges."""
    from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers, processors

    split = pre_tokenizers.Split(Regex(LLAMA3_RE), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)
    pre = pre_tokenizers.Sequence([split, byte_level])
    j = train_bpe(seed, "smol3", 256 + 416, pre, [], ignore_merges=True)
    # ignore_merges needs at least one vocabulary word that the merges cannot reach:
    # drop every merge that produces (or consumes) a few longer words, keeping the words themselves.
    toks = [k for k in j["model"]["vocab"] if len(k) >= 4 and k.startswith("Ġ") and k.isalpha()][:6]
    merges = [m if isinstance(m, list) else m.split(" ") for m in j["model"]["merges"]]
    used = {p for m in merges for p in m}
    toks = [k for k in toks if k not in used][:3]
    j["model"]["merges"] = [m for m in merges if m[0] + m[1] not in toks]
    t = Tokenizer.from_str(json.dumps(j))
    t.pre_tokenizer = pre
    t.decoder = byte_level_decoder()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    for x, special in S3_SPECIALS:
        a = AddedToken(x, special=bool(special), normalized=False)
        (t.add_special_tokens if special else t.add_tokens)([a])
    return t


def build_llama3_bos(smollm3):
    """The same with a post-processor that puts a token in front."""
    from tokenizers import Tokenizer, processors

    t = Tokenizer.from_str(smollm3.to_str())
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))],
    )
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return t


def build_edge(base):
    """Corner cases of added-token matching: every flag, overlapping contents, a normalizer."""
    from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

    t = Tokenizer.from_str(json.dumps(base))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    t.decoder = byte_level_decoder()
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in SMOL_SPECIALS])
    t.add_special_tokens(
        [
            AddedToken("<mask>", special=True, normalized=False, lstrip=True),
            AddedToken("<rs>", special=True, normalized=False, rstrip=True),
            AddedToken("<both>", special=True, normalized=False, lstrip=True, rstrip=True),
            AddedToken("word", special=False, normalized=False, single_word=True),
        ]
    )
    plain = ["<a>", "<a>b", "<a>bc", "sp ace", "é"]
    t.add_tokens(
        [AddedToken("café", special=False, normalized=True)]
        + [AddedToken(x, special=False, normalized=False) for x in plain]
    )
    return t


def merge_pairs(vocab, seqs, n):
    """n merges of the commonest neighbours that lie in one word; new pieces join vocab, seqs are merged in place."""
    merges = []
    for _ in range(n):
        pairs = {}
        for q in seqs:
            for a, b in zip(q, q[1:]):
                if a in vocab and b in vocab and "▁" not in b:
                    pairs[(a, b)] = pairs.get((a, b), 0) + 1
        if not pairs:
            break
        a, b = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append((a, b))
        vocab.setdefault(a + b, len(vocab))
        for q in seqs:
            i = 0
            while i < len(q) - 1:
                if q[i] == a and q[i + 1] == b:
                    q[i : i + 2] = [a + b]
                i += 1
    return merges


def build_spm(seed):
    """Sentencepiece-style BPE with byte fallback (Llama 2, Mistral, Gemma, Phi-3 files)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    letters = sorted({c for s in corpus(seed, "spm") for c in s.replace(" ", "▁") if ord(c) < 0x250})
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for piece in [f"<0x{b:02X}>" for b in range(256)] + ["▁"] + letters:
        vocab.setdefault(piece, len(vocab))
    seqs = [list("▁" + s.replace(" ", "▁")) for s in corpus(seed, "spm")[:250]]
    merges = merge_pairs(vocab, seqs, 160)
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(content=" ", left=1, right=0)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in ("<unk>", "<s>", "</s>")])
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return t


def build_tokenizers(seed):
    """{kind: tokenizer}"""
    base = train_bpe(seed, "smol", 17 + 256 + 384, smol_pre_tokenizer(), SMOL_SPECIALS)
    smollm3 = build_smollm3(seed)
    return {
        "smollm2": build_smol(base, []),
        "smolvlm": build_smol(base, VLM_ADDED),
        "smolvlm_v1": build_smol(base, VLM_V1_ADDED),
        "smollm3": smollm3,
        "llama3_bos": build_llama3_bos(smollm3),
        "edge": build_edge(base),
        "spm": build_spm(seed),
    }


def byte_map():
    bs = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    cs = bs[:]
    n = 0
    for b in range(256):
        if b not in bs:
            bs.append(b)
            cs.append(256 + n)
            n += 1
    return {chr(c): b for b, c in zip(bs, cs)}


def token_bytes(tok, i, added):
    t = tok.id_to_token(i)
    if i in added:
        return t.encode()
    m = byte_map()
    return bytes(m[c] for c in t)


def utf8_stream(chunks):
    """Reference policy for byte-level streaming: emit every complete code point, hold an incomplete
    (but still valid) prefix of at most 3 bytes, replace each maximal invalid subpart by U+FFFD,
    and flush a held prefix at the end as one U+FFFD."""
    d = codecs.getincrementaldecoder("utf-8")("replace")
    out = [d.decode(c) for c in chunks]
    return out, d.decode(b"", final=True)


def decoded(t, ids):
    return {
        "decode": t.decode(ids, skip_special_tokens=False),
        "decode_skip": t.decode(ids, skip_special_tokens=True),
    }


def encode_cases(t, texts):
    cases = []
    for s in texts:
        a = t.encode(s, add_special_tokens=False)
        b = t.encode(s, add_special_tokens=True)
        cases.append({"text": s, "ids": a.ids, "ids_special": b.ids, "tokens": a.tokens, **decoded(t, a.ids)})
    return cases


def invalid_utf8_cases(t):
    """The server's rule, for which the libraries have none: each maximal invalid subpart becomes U+FFFD before encoding."""
    texts = [(raw, raw.decode("utf-8", "replace")) for raw in BAD_UTF8]
    return [{"hex": b.hex(), "policy_text": s, "ids": t.encode(s, add_special_tokens=False).ids} for b, s in texts]


def decode_cases(t, seed, name, added):
    """Random ids, every second case of single bytes so that characters are cut anywhere; then texts beyond ASCII."""
    size = t.get_vocab_size(with_added_tokens=True)
    r = rng_for(seed, "dec" + name)
    single = [i for i in range(size) if i not in added and len(t.id_to_token(i) or "") == 1 and name != "spm"]
    cases = []
    for k in range(80):
        n = int(r.integers(1, 24))
        ids = r.choice(single, size=n) if single and k % 2 else r.integers(0, size, size=n)
        cases.append([int(x) for x in ids])
    cases += [t.encode(s, add_special_tokens=False).ids for s in EDGE_TEXTS if not s.isascii()]
    return [{"ids": ids, **decoded(t, ids)} for ids in cases]


def library_stream(t, ids):
    from tokenizers.decoders import DecodeStream

    stream, pieces = DecodeStream(skip_special_tokens=False), []
    for i in ids:
        try:
            pieces.append(stream.step(t, i))
        except Exception as e:  # the library gives up on some invalid sequences
            return pieces + [{"error": type(e).__name__}]
    return pieces


def stream_cases(t, decodes, added):
    cases = []
    for c in decodes[:40] + decodes[80:]:
        chunks = [token_bytes(t, i, added) for i in c["ids"]]
        pieces, tail = utf8_stream(chunks)
        cases.append(
            {
                "ids": c["ids"],
                "token_bytes_hex": [x.hex() for x in chunks],
                "pieces": pieces,
                "flush": tail,
                "whole_equals_hf_decode": "".join(pieces) + tail == c["decode"],
                "hf_decode_stream": library_stream(t, c["ids"]),
            }
        )
    return cases


def section_tok(seed, out, toks, real_tok=None):
    from tokenizers import Tokenizer

    texts = EDGE_TEXTS + random_texts(seed, 160)
    toks = dict(toks)
    if real_tok:
        toks["real"] = Tokenizer.from_file(real_tok)
    flags = ("content", "special", "lstrip", "rstrip", "single_word", "normalized")
    for name, t in toks.items():
        folder = out / "tokenizer" / name
        folder.mkdir(parents=True, exist_ok=True)
        if name != "real":
            t.save(str(folder / "tokenizer.json"))
        added = {int(k): v for k, v in t.get_added_tokens_decoder().items()}
        decodes = decode_cases(t, seed, name, added)
        cases = {
            "vocab_size": t.get_vocab_size(with_added_tokens=True),
            "added_tokens": [{"id": i, **{f: getattr(a, f) for f in flags}} for i, a in sorted(added.items())],
            "encode": encode_cases(t, texts),
            "invalid_utf8": invalid_utf8_cases(t),
            "decode": decodes,
            "stream": stream_cases(t, decodes, added) if name != "spm" else [],
        }
        jdump(folder / "cases.json", cases)
