"""Section tok: one tokenizer.json a kind, and encode, decode, invalid UTF-8 and streaming cases for it.

The kinds are the pipelines that the Smol model files use (smollm2, smolvlm, smolvlm_v1, smollm3), plus llama3_bos (a template
post-processor), edge (added-token flags, NFC) and spm (byte fallback).
"""

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


def build_tokenizers(seed):
    from tokenizers import Tokenizer, AddedToken, pre_tokenizers, decoders, processors, Regex, normalizers, models

    out = {}
    pre = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    base = train_bpe(seed, "smol", 17 + 256 + 384, pre, SMOL_SPECIALS)
    bl = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)

    def mk(added, special=True):
        t = Tokenizer.from_str(json.dumps(base))
        t.pre_tokenizer = pre
        t.decoder = bl
        t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in SMOL_SPECIALS])
        t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in added])
        return t

    out["smollm2"] = mk([])
    out["smolvlm"] = mk(VLM_ADDED)
    out["smolvlm_v1"] = mk(VLM_V1_ADDED)
    # SmolLM3 / Llama-3 pipeline
    pre3 = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_RE), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]
    )
    j3 = train_bpe(seed, "smol3", 256 + 416, pre3, [], ignore_merges=True)
    # ignore_merges needs at least one vocabulary word that the merges cannot reach:
    # drop every merge that produces (or consumes) a few longer words, keeping the words themselves.
    toks = [k for k in j3["model"]["vocab"] if len(k) >= 4 and k.startswith("Ġ") and k.isalpha()][:6]
    merges = [m if isinstance(m, list) else m.split(" ") for m in j3["model"]["merges"]]
    used = {p for m in merges for p in m}
    toks = [k for k in toks if k not in used][:3]
    j3["model"]["merges"] = [m for m in merges if m[0] + m[1] not in toks]
    t = Tokenizer.from_str(json.dumps(j3))
    t.pre_tokenizer = pre3
    t.decoder = bl
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    for x, sp in S3_SPECIALS:
        a = AddedToken(x, special=bool(sp), normalized=False)
        (t.add_special_tokens if sp else t.add_tokens)([a])
    out["smollm3"] = t
    t2 = Tokenizer.from_str(t.to_str())
    bos = t2.token_to_id("<|begin_of_text|>")
    t2.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                special_tokens=[("<|begin_of_text|>", bos)],
            ),
        ]
    )
    out["llama3_bos"] = t2
    # added-token matching corner cases
    e = Tokenizer.from_str(json.dumps(base))
    e.normalizer = normalizers.NFC()
    e.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    e.decoder = bl
    e.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in SMOL_SPECIALS])
    e.add_special_tokens(
        [
            AddedToken("<mask>", special=True, normalized=False, lstrip=True),
            AddedToken("<rs>", special=True, normalized=False, rstrip=True),
            AddedToken("<both>", special=True, normalized=False, lstrip=True, rstrip=True),
            AddedToken("word", special=False, normalized=False, single_word=True),
        ]
    )
    e.add_tokens(
        [
            AddedToken("café", special=False, normalized=True),
            AddedToken("<a>", special=False, normalized=False),
            AddedToken("<a>b", special=False, normalized=False),
            AddedToken("<a>bc", special=False, normalized=False),
            AddedToken("sp ace", special=False, normalized=False),
            AddedToken("é", special=False, normalized=False),
        ]
    )
    out["edge"] = e
    # sentencepiece-style BPE with byte fallback (Llama-2, Mistral, Gemma, Phi-3 files)
    words = sorted({c for s in corpus(seed, "spm") for c in s.replace(" ", "▁") if ord(c) < 0x250})
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = len(vocab)
    for c in ["▁"] + words:
        vocab.setdefault(c, len(vocab))
    merges = []
    pairs = {}
    seqs = [list("▁" + s.replace(" ", "▁")) for s in corpus(seed, "spm")[:250]]
    for _ in range(160):
        pairs.clear()
        for q in seqs:
            for i in range(len(q) - 1):
                if q[i] in vocab and q[i + 1] in vocab and not ("▁" in q[i + 1]):
                    pairs[(q[i], q[i + 1])] = pairs.get((q[i], q[i + 1]), 0) + 1
        if not pairs:
            break
        (a, b), _n = max(pairs.items(), key=lambda kv: (kv[1], kv[0]))
        merges.append((a, b))
        vocab.setdefault(a + b, len(vocab))
        for q in seqs:
            i = 0
            while i < len(q) - 1:
                if q[i] == a and q[i + 1] == b:
                    q[i : i + 2] = [a + b]
                i += 1
    s = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    s.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    s.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    s.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in ("<unk>", "<s>", "</s>")])
    s.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    out["spm"] = s
    return out


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
    import codecs

    d = codecs.getincrementaldecoder("utf-8")("replace")
    out = [d.decode(c) for c in chunks]
    return out, d.decode(b"", final=True)


def section_tok(seed, out, toks, real_tok=None):
    from tokenizers import Tokenizer
    from tokenizers.decoders import DecodeStream

    d = out / "tokenizer"
    texts = EDGE_TEXTS + random_texts(seed, 160)
    toks = dict(toks)
    if real_tok:
        toks["real"] = Tokenizer.from_file(real_tok)
    for name, t in toks.items():
        (d / name).mkdir(parents=True, exist_ok=True)
        if name != "real":
            t.save(str(d / name / "tokenizer.json"))
        enc = []
        for s in texts:
            a = t.encode(s, add_special_tokens=False)
            b = t.encode(s, add_special_tokens=True)
            enc.append(
                {
                    "text": s,
                    "ids": a.ids,
                    "ids_special": b.ids,
                    "tokens": a.tokens,
                    "decode": t.decode(a.ids, skip_special_tokens=False),
                    "decode_skip": t.decode(a.ids, skip_special_tokens=True),
                }
            )
        bad = []
        for raw in BAD_UTF8:
            s = raw.decode("utf-8", "replace")
            bad.append({"hex": raw.hex(), "policy_text": s, "ids": t.encode(s, add_special_tokens=False).ids})
        V = t.get_vocab_size(with_added_tokens=True)
        added = {int(k): v for k, v in t.get_added_tokens_decoder().items()}
        r = rng_for(seed, "dec" + name)
        dec = []
        bytetok = [i for i in range(V) if i not in added and len(t.id_to_token(i) or "") == 1 and name not in ("spm",)]
        for k in range(80):
            n = int(r.integers(1, 24))
            if bytetok and k % 2:
                ids = [int(x) for x in r.choice(bytetok, size=n)]
            else:
                ids = [int(x) for x in r.integers(0, V, size=n)]
            dec.append(
                {
                    "ids": ids,
                    "decode": t.decode(ids, skip_special_tokens=False),
                    "decode_skip": t.decode(ids, skip_special_tokens=True),
                }
            )
        for s in EDGE_TEXTS:
            if any(ord(c) > 127 for c in s):
                ids = t.encode(s, add_special_tokens=False).ids
                dec.append(
                    {
                        "ids": ids,
                        "decode": t.decode(ids, skip_special_tokens=False),
                        "decode_skip": t.decode(ids, skip_special_tokens=True),
                    }
                )
        stream = []
        if name != "spm":
            for c in dec[:40] + dec[80:]:
                ids = c["ids"]
                chunks = [token_bytes(t, i, added) for i in ids]
                pieces, tail = utf8_stream(chunks)
                ds = DecodeStream(skip_special_tokens=False)
                hf = []
                for i in ids:
                    try:
                        hf.append(ds.step(t, i))
                    except Exception as e:  # HF gives up on some invalid sequences
                        hf.append({"error": type(e).__name__})
                        break
                whole = "".join(pieces) + tail
                stream.append(
                    {
                        "ids": ids,
                        "token_bytes_hex": [x.hex() for x in chunks],
                        "pieces": pieces,
                        "flush": tail,
                        "whole_equals_hf_decode": whole == c["decode"],
                        "hf_decode_stream": hf,
                    }
                )
        jdump(
            d / name / "cases.json",
            {
                "vocab_size": V,
                "added_tokens": [
                    {
                        "id": i,
                        "content": a.content,
                        "special": a.special,
                        "lstrip": a.lstrip,
                        "rstrip": a.rstrip,
                        "single_word": a.single_word,
                        "normalized": a.normalized,
                    }
                    for i, a in sorted(added.items())
                ],
                "encode": enc,
                "invalid_utf8": bad,
                "decode": dec,
                "stream": stream,
            },
        )
