"""Section vlm: tiny checkpoints of the picture families; prompts, tiles and reference logits."""

import json

import numpy as np

from .common import jdump, log, st_save
from .models import (
    HUB_STYLE,
    V5_STYLE,
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
from .templates import frozen_clock, render_case, vlm_default_template


def vlm_specs(toks):
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
    )

    t = lambda V, **k: dict(
        dict(
            model_type="llama",
            vocab_size=V,
            hidden_size=128,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=64,
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
            tie_word_embeddings=False,
        ),
        **k,
    )
    V, V1 = toks["smolvlm"].get_vocab_size(), toks["smolvlm_v1"].get_vocab_size()
    va = dict(
        hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8
    )  # 8x8 patches, /4 -> 4 tokens
    vb = dict(
        hidden_size=144, intermediate_size=208, num_hidden_layers=2, num_attention_heads=2, image_size=38, patch_size=4
    )  # 9x9 patches + 2 px lost, /3 -> 9 tokens
    mk = lambda C, tok, tt, vv, sf, V: C(
        text_config=tt,
        vision_config=vv,
        scale_factor=sf,
        image_token_id=tok.token_to_id("<image>"),
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    # SmolVLM-256M/500M-like, SmolVLM2-2.2B-like (MHA, theta 130000), SmolVLM(v1)-2.2B-like (3 added tokens, theta 273768)
    return [
        (
            "idefics3",
            Idefics3ForConditionalGeneration,
            mk(Idefics3Config, toks["smolvlm"], t(V), va, 4, V),
            toks["smolvlm"],
            "tile64",
            4,
            "idefics3",
        ),
        (
            "smolvlm2",
            SmolVLMForConditionalGeneration,
            mk(
                SmolVLMConfig,
                toks["smolvlm"],
                t(
                    V,
                    num_key_value_heads=2,
                    intermediate_size=160,
                    rope_parameters={"rope_type": "default", "rope_theta": 130000.0},
                ),
                vb,
                3,
                V,
            ),
            toks["smolvlm"],
            "tile38",
            9,
            "smolvlm2",
        ),
        (
            "idefics3_v1",
            Idefics3ForConditionalGeneration,
            mk(
                Idefics3Config,
                toks["smolvlm_v1"],
                t(
                    V1,
                    num_key_value_heads=2,
                    intermediate_size=160,
                    rope_parameters={"rope_type": "default", "rope_theta": 273768.0},
                ),
                vb,
                3,
                V1,
            ),
            toks["smolvlm_v1"],
            "tile38",
            9,
            "idefics3",
        ),
    ]


def vlm_folder(folder, name, cls, cfg, tok, geom, seq, kind, dt, style):
    import torch

    g = GEOMS[geom]
    folder.mkdir(parents=True, exist_ok=True)
    tc, vc = cfg.text_config, cfg.vision_config
    eou = tok.token_to_id("<end_of_utterance>")
    if style == HUB_STYLE:
        text = hub_text_cfg(
            tc,
            {
                "architectures": ["VLlama3ForCausalLM"],
                "head_dim": tc.head_dim,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 2,
                "is_llama_config": True,
                "pixel_shuffle_factor": cfg.scale_factor,
                "qk_layer_norms": False,
                "use_resampler": False,
                "rope_interleaved": False,
                "tie_word_embeddings": False,
                "perceiver_config": {"hidden_act": "silu", "resampler_depth": 6, "model_type": "vllama3"},
            },
        )
        if kind == "smolvlm2":  # the SmolVLM2 files on the Hub leave most defaults out
            for k in (
                "attention_bias",
                "attention_dropout",
                "hidden_act",
                "initializer_range",
                "mlp_bias",
                "rope_scaling",
                "use_cache",
                "pretraining_tp",
                "bos_token_id",
                "eos_token_id",
            ):
                text.pop(k)
        vis = {
            "hidden_size": vc.hidden_size,
            "image_size": vc.image_size,
            "intermediate_size": vc.intermediate_size,
            "num_hidden_layers": vc.num_hidden_layers,
            "num_attention_heads": vc.num_attention_heads,
            "patch_size": vc.patch_size,
            "max_image_size": {"longest_edge": g["tile"]},
            "size": {"longest_edge": g["size"]},
            "model_type": "smolvlm_vision" if kind == "smolvlm2" else "idefics3",
            "tie_word_embeddings": False,
            "use_base_siglip": False,
        }
        j = {
            "architectures": [cls.__name__],
            "image_token_id": cfg.image_token_id,
            "model_type": "smolvlm" if kind == "smolvlm2" else "idefics3",
            "scale_factor": cfg.scale_factor,
            "text_config": text,
            "tie_word_embeddings": False,
            "torch_dtype": "float32" if dt == torch.float32 else "bfloat16",
            "transformers_version": "4.47.1",
            "use_cache": False,
            "vision_config": vis,
            "vocab_size": tc.vocab_size,
        }
        if kind == "smolvlm2":
            j["pad_token_id"] = 128002  # out of range on purpose, as on the Hub
        if name.endswith("_v1"):
            j["image_seq_len"] = seq
    else:
        c = json.loads(cfg.to_json_string(use_diff=False))

        def clean(x):
            return {
                k: clean(v) if isinstance(v, dict) else v
                for k, v in x.items()
                if not k.startswith("_")
                and v is not None
                and k
                not in (
                    "id2label",
                    "label2id",
                    "return_dict",
                    "output_hidden_states",
                    "problem_type",
                    "chunk_size_feed_forward",
                    "is_encoder_decoder",
                )
            }

        j = clean(c)
        j.update(architectures=[cls.__name__], dtype="bfloat16", transformers_version="5.23.0")
    jdump(folder / "config.json", j)
    jdump(
        folder / "generation_config.json",
        {
            "_from_model_config": True,
            "bos_token_id": 0 if not name.endswith("_v1") else 1,
            "eos_token_id": eou,
            "pad_token_id": 2,
            "transformers_version": "4.46.0",
        },
    )
    pp = {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_processor_type": "SmolVLMImageProcessor" if kind == "smolvlm2" else "Idefics3ImageProcessor",
        "max_image_size": {"longest_edge": g["tile"]},
        "processor_class": "SmolVLMProcessor" if kind == "smolvlm2" else "Idefics3Processor",
        "resample": 1,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": g["size"]},
    }
    if kind == "smolvlm2":
        pp["video_sampling"] = {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": g["tile"]}}
    jdump(folder / "preprocessor_config.json", pp)
    jdump(folder / "processor_config.json", {"image_seq_len": seq, "processor_class": pp["processor_class"]})
    tpl = vlm_default_template()
    if kind != "smolvlm2":
        tpl = tpl.replace("{% elif line['type'] == 'video' %}{{ '<video>' }}", "")
    write_tokenizer_files(folder, tok, kind, tpl, "json" if style == HUB_STYLE else "jinja")
    return tpl


def expand(prompt, rows, cols, seq):
    """Replace each <image> by its expansion (transformers' own helper)."""
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    parts = prompt.split("<image>")
    assert len(parts) - 1 == len(rows)
    s = parts[0]
    for i, p in enumerate(parts[1:]):
        s += get_image_prompt_string(rows[i], cols[i], seq, "<fake_token_around_image>", "<image>", "<global-img>") + p
    return s


def vlm_case(model, tok, prompt_exp, px, full, keep):
    import torch

    ids = tok.encode(prompt_exp, add_special_tokens=False).ids
    mm = (
        {
            "pixel_values": torch.from_numpy(px)[None],
            "pixel_attention_mask": torch.ones((1, px.shape[0]) + px.shape[2:], dtype=torch.int64),
        }
        if px is not None
        else {}
    )
    rec, ten = run_case(model, ids, mm, full_logits=full, keep_hidden=keep)
    return ids, mm, rec, ten


def section_vlm(seed, out, toks):
    import torch
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers import PreTrainedTokenizerFast
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    imd = out / "images"
    if not (imd / "index.json").exists():
        make_images(seed, imd)
    load = lambda n: decode_policies(imd / n)[4]
    I = lambda s: {"type": "text", "text": s}
    M = {"type": "image"}
    plans = {
        "landscape": (["jpg_640x480.jpg"], [M, I("What is shown?")]),
        "tall": (["rgb_7x500.png"], [M, I("Describe.")]),
        "one_px": (["rgb_1x1.png"], [I("Look: "), M]),
        "big": (["jpg_2048x1536.jpg"], [M, I("Summarise the picture in one word.")]),
        "rgba": (["rgba_120x90.png"], [M, I("alpha?")]),
        "palette": (["pal_trns_100x80.png"], [M, I("palette")]),
        "gray": (["gray_300x200.png"], [M, I("gray")]),
        "exif6": (["exif6_60x36.jpg"], [M, I("rotated")]),
        "square": (["rgb_256x256.png"], [M]),
        "two_images": (["rgb_100x80.png", "rgb_65x63.png"], [I("A "), M, I(" B "), M, I(" compare")]),
        "text_only": ([], [I("No image at all.")]),
        "no_split": (["jpg_640x480.jpg"], [M, I("What is shown?")]),
    }
    for name, cls, cfg, tok, geom, seq, kind in vlm_specs(toks):
        torch.manual_seed(seed)
        model = init_weights(cls(cfg).float(), seed, name, False)
        for dt, style in ((torch.float32, HUB_STYLE), (torch.bfloat16, V5_STYLE)):
            if dt == torch.float32 and name == "idefics3_v1":
                continue
            fn = f"{name}-{'f32' if dt == torch.float32 else 'bf16'}"
            folder = out / "models" / fn
            tpl = vlm_folder(
                folder, name, cls, cfg, tok, geom, seq, kind, dt, HUB_STYLE if name == "idefics3_v1" else style
            )
            m = model if dt == torch.float32 else as_dtype(as_dtype(model, dt), torch.float32)
            save_weights(m, folder, dt)
            mb = as_dtype(model, torch.bfloat16) if dt == torch.bfloat16 else None
            pcls = SmolVLMImageProcessorPil if kind == "smolvlm2" else None
            proc, proc_ns = image_processor(geom, pcls), image_processor(dict(GEOMS[geom], split=False), pcls)
            cases = {}
            for pn, (files, content) in plans.items():
                if dt == torch.bfloat16 and pn not in ("landscape", "one_px", "two_images", "text_only", "no_split"):
                    continue
                messages = [{"role": "user", "content": content}]
                with frozen_clock() as ctu:
                    prompt = render_case(ctu, tpl, messages, None, True)["text"]
                px = None
                rows = cols = []
                if files:
                    px, u8, rows, cols, _ = run_proc(proc_ns if pn == "no_split" else proc, [load(f) for f in files])
                pe = expand(prompt, rows, cols, seq)
                ids, mm, rec, ten = vlm_case(m, tok, pe, px, True, pn in ("no_split",))
                rec.update(
                    files=files,
                    messages=messages,
                    do_image_splitting=pn != "no_split",
                    prompt=prompt,
                    prompt_expanded=pe,
                    rows=rows,
                    cols=cols,
                    n_image_tokens=ids.count(cfg.image_token_id),
                    n_tiles=0 if px is None else int(px.shape[0]),
                )
                assert rec["n_image_tokens"] == rec["n_tiles"] * seq
                if files:
                    ten["tiles_u8"] = u8
                if mb is not None:
                    rec["bf16_compute"] = bf16_case(mb, ids, mm)[1]
                if kind == "idefics3" and pn in ("landscape", "two_images"):  # cross-check with the library's processor
                    ft = PreTrainedTokenizerFast(
                        tokenizer_object=tok, eos_token="<end_of_utterance>", pad_token="<|im_end|>"
                    )
                    P = Idefics3Processor(proc, ft, image_seq_len=seq)
                    o = P(text=prompt, images=[load(f) for f in files], return_tensors="pt")
                    assert o["input_ids"][0].tolist() == ids and np.array_equal(o["pixel_values"][0].numpy(), px)
                st_save(out / "golden" / fn / f"{pn}.safetensors", ten)
                cases[pn] = rec
                if pn == "no_split":
                    rec["reload_max_abs_diff"] = check_reload(folder, cls, ids, ten["logits"], mm)
            jdump(
                out / "golden" / fn / "cases.json",
                {
                    "model": fn,
                    "compute": "float32, eager attention, CPU",
                    "image_seq_len": seq,
                    "geometry": GEOMS[geom],
                    "cases": cases,
                },
            )
            log(fn, "min margins", {k: round(v["min_margin"], 4) for k, v in cases.items()})
