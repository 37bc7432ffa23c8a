"""Makes the demo model's tokenizer: byte-level BPE over the wordings in data.py, with SmolVLM's pipeline and added tokens."""
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

import data

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<global-img>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]


def make(vocab):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)])
    t.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    t.train_from_iterator(data.corpus(), trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIALS, show_progress=False, min_frequency=3,
                                                             initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return t


def load(folder, vocab):
    """The folder's tokenizer.json, made on first use."""
    f = Path(folder) / "tokenizer.json"
    if not f.exists():
        f.parent.mkdir(parents=True, exist_ok=True)
        make(vocab).save(str(f))
    return Tokenizer.from_file(str(f))
