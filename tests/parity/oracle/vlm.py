"""Section vlm: tiny checkpoints of the picture families; prompts, tiles and reference logits."""

import json
from dataclasses import dataclass

import numpy as np

from .common import jdump, log, st_save
from .models import (
    as_dtype,
    bf16_case,
    check_reload,
    hub_text_cfg,
    init_weights,
    run_case,
    save_weights,
    write_tokenizer_files,
)
from .pictures import GEOMS, decode_policies, image_processor, make_images, run_proc
from .templates import frozen_clock, render_case, vlm_default_template, without_video


@dataclass
class VlmSpec:
    name: str
    kind: str  # idefics3 or smolvlm2
    cls: type
    config: object
    tok: object
    geometry: str
    seq: int  # tokens a tile

    @property
    def g(self):
        return GEOMS[self.geometry]

    @property
    def first_release(self):
        """SmolVLM-Instruct 2.2B, whose files differ from the later ones'."""
        return self.name == "idefics3_v1"

    @property
    def template(self):
        return vlm_default_template() if self.kind == "smolvlm2" else without_video(vlm_default_template())


def text_config(vocab, theta, **other):
    plain = dict(
        model_type="llama",
        vocab_size=vocab,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    return {**plain, **other}


# 8x8 patches, shuffled by 4: 4 tokens. 9x9 patches and 2 pixels that no patch covers, shuffled by 3: 9 tokens.
EVEN_TOWER = dict(hidden_size=128, intermediate_size=192, image_size=64, patch_size=8)
ODD_TOWER = dict(hidden_size=144, intermediate_size=208, image_size=38, patch_size=4)


def vlm_specs(toks):
    """The shapes of SmolVLM-256M/500M, of SmolVLM2-2.2B (as many key as query heads) and of the first SmolVLM-2.2B (3 added tokens)."""
    import transformers as t

    def spec(name, kind, config_cls, cls, tok, geometry, text, tower, shuffle, seq):
        config = config_cls(
            text_config=text,
            vision_config=dict(tower, num_hidden_layers=2, num_attention_heads=2),
            scale_factor=shuffle,
            image_token_id=tok.token_to_id("<image>"),
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
        return VlmSpec(name, kind, cls, config, tok, geometry, seq)

    idefics3 = (t.Idefics3Config, t.Idefics3ForConditionalGeneration)
    smolvlm = (t.SmolVLMConfig, t.SmolVLMForConditionalGeneration)
    tok, tok1 = toks["smolvlm"], toks["smolvlm_v1"]
    large = dict(num_key_value_heads=2, intermediate_size=160)
    text = text_config(tok.get_vocab_size(), 100000.0)
    text2 = text_config(tok.get_vocab_size(), 130000.0, **large)
    text1 = text_config(tok1.get_vocab_size(), 273768.0, **large)
    return [
        spec("idefics3", "idefics3", *idefics3, tok, "tile64", text, EVEN_TOWER, 4, 4),
        spec("smolvlm2", "smolvlm2", *smolvlm, tok, "tile38", text2, ODD_TOWER, 3, 9),
        spec("idefics3_v1", "idefics3", *idefics3, tok1, "tile38", text1, ODD_TOWER, 3, 9),
    ]


# The SmolVLM2 files on the Hub leave most defaults out.
SMOLVLM2_LEFT_OUT = (
    """attention_bias attention_dropout hidden_act initializer_range mlp_bias rope_scaling use_cache pretraining_tp
bos_token_id eos_token_id""".split()
)


def hub_text_config(spec):
    c = spec.config.text_config
    extra = {
        "architectures": ["VLlama3ForCausalLM"],
        "head_dim": c.head_dim,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "is_llama_config": True,
        "pixel_shuffle_factor": spec.config.scale_factor,
        "qk_layer_norms": False,
        "use_resampler": False,
        "rope_interleaved": False,
        "tie_word_embeddings": False,
        "perceiver_config": {"hidden_act": "silu", "resampler_depth": 6, "model_type": "vllama3"},
    }
    fields = hub_text_cfg(c, extra)
    return {k: v for k, v in fields.items() if spec.kind != "smolvlm2" or k not in SMOLVLM2_LEFT_OUT}


def hub_config(spec, dtype):
    """config.json with the spelling, and the gaps, of the files on the Hub."""
    smolvlm2, v = spec.kind == "smolvlm2", spec.config.vision_config
    vision = {
        "hidden_size": v.hidden_size,
        "image_size": v.image_size,
        "intermediate_size": v.intermediate_size,
        "num_hidden_layers": v.num_hidden_layers,
        "num_attention_heads": v.num_attention_heads,
        "patch_size": v.patch_size,
        "max_image_size": {"longest_edge": spec.g["tile"]},
        "size": {"longest_edge": spec.g["size"]},
        "model_type": "smolvlm_vision" if smolvlm2 else "idefics3",
        "tie_word_embeddings": False,
        "use_base_siglip": False,
    }
    fields = {
        "architectures": [spec.cls.__name__],
        "image_token_id": spec.config.image_token_id,
        "model_type": "smolvlm" if smolvlm2 else "idefics3",
        "scale_factor": spec.config.scale_factor,
        "text_config": hub_text_config(spec),
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "transformers_version": "4.47.1",
        "use_cache": False,
        "vision_config": vision,
        "vocab_size": spec.config.text_config.vocab_size,
    }
    if smolvlm2:
        fields["pad_token_id"] = 128002  # out of range on purpose, as on the Hub
    if spec.first_release:
        fields["image_seq_len"] = spec.seq
    return fields


V5_LEFT_OUT = """id2label label2id return_dict output_hidden_states problem_type chunk_size_feed_forward is_encoder_decoder""".split()


def v5_config(spec):
    """config.json as transformers 5 writes it."""

    def clean(fields):
        kept = {k: v for k, v in fields.items() if not k.startswith("_") and v is not None and k not in V5_LEFT_OUT}
        return {k: clean(v) if isinstance(v, dict) else v for k, v in kept.items()}

    fields = clean(json.loads(spec.config.to_json_string(use_diff=False)))
    return {**fields, "architectures": [spec.cls.__name__], "dtype": "bfloat16", "transformers_version": "5.23.0"}


def preprocessor_config(spec):
    smolvlm2 = spec.kind == "smolvlm2"
    fields = {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_processor_type": "SmolVLMImageProcessor" if smolvlm2 else "Idefics3ImageProcessor",
        "max_image_size": {"longest_edge": spec.g["tile"]},
        "processor_class": "SmolVLMProcessor" if smolvlm2 else "Idefics3Processor",
        "resample": 1,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": spec.g["size"]},
    }
    if smolvlm2:
        fields["video_sampling"] = {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": spec.g["tile"]}}
    return fields


def vlm_folder(folder, spec, model, dt):
    """model: in float32, its parameters rounded to dt. The first release's bf16 files have the Hub's spelling too."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder, dt)
    hub = dt == torch.float32 or spec.first_release
    dtype = "float32" if dt == torch.float32 else "bfloat16"
    jdump(folder / "config.json", hub_config(spec, dtype) if hub else v5_config(spec))
    generation = {
        "_from_model_config": True,
        "bos_token_id": 1 if spec.first_release else 0,
        "eos_token_id": spec.tok.token_to_id("<end_of_utterance>"),
        "pad_token_id": 2,
        "transformers_version": "4.46.0",
    }
    jdump(folder / "generation_config.json", generation)
    preprocessor = preprocessor_config(spec)
    jdump(folder / "preprocessor_config.json", preprocessor)
    processor = {"image_seq_len": spec.seq, "processor_class": preprocessor["processor_class"]}
    jdump(folder / "processor_config.json", processor)
    write_tokenizer_files(folder, spec.tok, spec.kind, spec.template, "json" if hub else "jinja")


def expand(prompt, rows, cols, seq):
    """Replace each <image> by its expansion (transformers' own helper)."""
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    parts = prompt.split("<image>")
    assert len(parts) - 1 == len(rows)
    s = parts[0]
    for i, p in enumerate(parts[1:]):
        s += get_image_prompt_string(rows[i], cols[i], seq, "<fake_token_around_image>", "<image>", "<global-img>") + p
    return s


def run_vlm(model, tok, prompt, pixels, full, keep):
    """(ids, picture arguments, case, tensors) of an expanded prompt; pixels (tiles, 3, height, width) or None."""
    import torch

    ids = tok.encode(prompt, add_special_tokens=False).ids
    pictures = {}
    if pixels is not None:
        mask = torch.ones((1, pixels.shape[0]) + pixels.shape[2:], dtype=torch.int64)
        pictures = {"pixel_values": torch.from_numpy(pixels)[None], "pixel_attention_mask": mask}
    case, kept = run_case(model, ids, pictures, full_logits=full, keep_hidden=keep)
    return ids, pictures, case, kept


def text(s):
    return {"type": "text", "text": s}


IMAGE = {"type": "image"}
# case: (pictures, content of the user's message). bf16 checkpoints take the first five.
PLANS = {
    "landscape": (["jpg_640x480.jpg"], [IMAGE, text("What is shown?")]),
    "one_px": (["rgb_1x1.png"], [text("Look: "), IMAGE]),
    "two_images": (
        ["rgb_100x80.png", "rgb_65x63.png"],
        [text("A "), IMAGE, text(" B "), IMAGE, text(" compare")],
    ),
    "text_only": ([], [text("No image at all.")]),
    "no_split": (["jpg_640x480.jpg"], [IMAGE, text("What is shown?")]),
    "tall": (["rgb_7x500.png"], [IMAGE, text("Describe.")]),
    "big": (["jpg_2048x1536.jpg"], [IMAGE, text("Summarise the picture in one word.")]),
    "rgba": (["rgba_120x90.png"], [IMAGE, text("alpha?")]),
    "palette": (["pal_trns_100x80.png"], [IMAGE, text("palette")]),
    "gray": (["gray_300x200.png"], [IMAGE, text("gray")]),
    "exif6": (["exif6_60x36.jpg"], [IMAGE, text("rotated")]),
    "square": (["rgb_256x256.png"], [IMAGE]),
}
BF16_PLANS = list(PLANS)[:5]


def check_with_library_processor(spec, processor, prompt, pictures, ids, pixels):
    """The whole of it once more by the library's own processor class."""
    from transformers import PreTrainedTokenizerFast
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    tok = PreTrainedTokenizerFast(tokenizer_object=spec.tok, eos_token="<end_of_utterance>", pad_token="<|im_end|>")
    whole = Idefics3Processor(processor, tok, image_seq_len=spec.seq)
    o = whole(text=prompt, images=pictures, return_tensors="pt")
    assert o["input_ids"][0].tolist() == ids and np.array_equal(o["pixel_values"][0].numpy(), pixels)


class VlmRunner:
    """One checkpoint's cases. model_bf16: None for a float32 checkpoint."""

    def __init__(self, spec, model, model_bf16, images):
        from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

        self.spec, self.model, self.model_bf16, self.images = spec, model, model_bf16, images
        cls = SmolVLMImageProcessorPil if spec.kind == "smolvlm2" else None
        self.processors = {split: image_processor(dict(spec.g, split=split), cls) for split in (True, False)}

    def run(self, plan):
        """(case, tensors, ids, picture arguments)"""
        spec, (files, content), split = self.spec, PLANS[plan], plan != "no_split"
        messages = [{"role": "user", "content": content}]
        with frozen_clock() as ctu:
            prompt = render_case(ctu, spec.template, messages, None, True)["text"]
        pictures = [decode_policies(self.images / f)[4] for f in files]
        pixels, tiles, rows, cols = None, None, [], []
        if files:
            pixels, tiles, rows, cols, _ = run_proc(self.processors[split], pictures)
        expanded = expand(prompt, rows, cols, spec.seq)
        ids, arguments, case, kept = run_vlm(self.model, spec.tok, expanded, pixels, True, plan == "no_split")
        case.update(
            files=files,
            messages=messages,
            do_image_splitting=split,
            prompt=prompt,
            prompt_expanded=expanded,
            rows=rows,
            cols=cols,
            n_image_tokens=ids.count(spec.config.image_token_id),
            n_tiles=0 if pixels is None else int(pixels.shape[0]),
        )
        assert case["n_image_tokens"] == case["n_tiles"] * spec.seq
        if files:
            kept["tiles_u8"] = tiles
        if self.model_bf16:
            case["bf16_compute"] = bf16_case(self.model_bf16, ids, arguments)[1]
        if spec.kind == "idefics3" and plan in ("landscape", "two_images"):
            check_with_library_processor(spec, self.processors[split], prompt, pictures, ids, pixels)
        return case, kept, ids, arguments


def section_vlm(seed, out, toks):
    import torch

    images = out / "images"
    if not (images / "index.json").exists():
        make_images(seed, images)
    for spec in vlm_specs(toks):
        master = init_weights(spec.cls(spec.config).float(), seed, spec.name, False)
        for dt in (torch.bfloat16,) if spec.first_release else (torch.float32, torch.bfloat16):
            half = dt == torch.bfloat16
            model = as_dtype(as_dtype(master, dt), torch.float32)
            name = f"{spec.name}-{'bf16' if half else 'f32'}"
            folder, results = out / "models" / name, out / "golden" / name
            vlm_folder(folder, spec, model, dt)
            runner = VlmRunner(spec, model, as_dtype(master, dt) if half else None, images)
            cases = {}
            for plan in BF16_PLANS if half else PLANS:
                case, kept, ids, arguments = runner.run(plan)
                st_save(results / f"{plan}.safetensors", kept)
                if plan == "no_split":
                    case["reload_max_abs_diff"] = check_reload(folder, spec.cls, ids, kept["logits"], arguments)
                cases[plan] = case
            about = {
                "model": name,
                "compute": "float32, eager attention, CPU",
                "image_seq_len": spec.seq,
                "geometry": spec.g,
            }
            jdump(results / "cases.json", {**about, "cases": cases})
            log(name, "min margins", {k: round(c["min_margin"], 4) for k, c in cases.items()})
