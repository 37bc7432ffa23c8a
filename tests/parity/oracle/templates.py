"""Section tpl: chat renderings and language probes by the reference library, with its clock frozen."""

import contextlib
import re
from datetime import datetime
from pathlib import Path

from .common import FIXED_NOW, jdump, log
from .template_data import PROBES, SMOLLM1_TPL, SMOLLM2_TPL, SMOLLM3_TPL, TOOLS, conversations, vlm_conversations


@contextlib.contextmanager
def frozen_clock():
    import transformers.utils.chat_template_utils as ctu

    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return FIXED_NOW

    old = ctu.datetime
    ctu.datetime = Frozen
    try:
        yield ctu
    finally:
        ctu.datetime = old


def render_case(ctu, tpl, messages, tools=None, agp=False, **kw):
    want_gen = bool(re.search(r"\{\%-?\s*generation\s*-?\%\}", tpl))
    try:
        s, gi = ctu.render_jinja_template(
            conversations=[messages],
            tools=tools,
            documents=None,
            chat_template=tpl,
            add_generation_prompt=agp,
            return_assistant_tokens_mask=want_gen,
            **kw,
        )
        r = {"text": s[0]}
        if want_gen:
            r["generation_spans_codepoints"] = [list(x) for x in gi[0]]
        return r
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"}


def vlm_default_template():
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    return DEFAULT_CHAT_TEMPLATE


def section_tpl(seed, out, real_dir=None):
    d = out / "templates"
    d.mkdir(parents=True, exist_ok=True)
    tpls = {
        "smollm1": SMOLLM1_TPL,
        "smollm2": SMOLLM2_TPL,
        "smollm3": SMOLLM3_TPL,
        "smolvlm2_default": vlm_default_template(),
    }
    tpls["smolvlm"] = tpls["smolvlm2_default"].replace("{% elif line['type'] == 'video' %}{{ '<video>' }}", "")
    convs, vconvs = conversations(seed), vlm_conversations(seed)
    cases = []
    with frozen_clock() as ctu:
        for name, t in tpls.items():
            (d / f"{name}.jinja").write_text(t, encoding="utf-8")
            for cn, m in (vconvs if "vlm" in name else convs).items():
                for agp in (False, True):
                    cases.append(
                        {
                            "template": name,
                            "conv": cn,
                            "messages": m,
                            "tools": None,
                            "add_generation_prompt": agp,
                            "kwargs": {},
                            "expect": render_case(ctu, t, m, None, agp),
                        }
                    )
        t = tpls["smollm3"]
        for cn in ("user", "sys_user", "multi", "no_think", "override", "tools_call", "spaces"):
            for kw in (
                {"enable_thinking": False},
                {"enable_thinking": True},
                {"xml_tools": TOOLS},
                {"python_tools": ["def f(x: int) -> int: ...", "def g(): ..."]},
                {"xml_tools": TOOLS[:1], "python_tools": ["def f(x): ..."], "enable_thinking": False},
            ):
                cases.append(
                    {
                        "template": "smollm3",
                        "conv": cn,
                        "messages": convs[cn],
                        "tools": None,
                        "add_generation_prompt": True,
                        "kwargs": kw,
                        "expect": render_case(ctu, t, convs[cn], None, True, **kw),
                    }
                )
            cases.append(
                {
                    "template": "smollm3",
                    "conv": cn,
                    "messages": convs[cn],
                    "tools": TOOLS,
                    "add_generation_prompt": True,
                    "kwargs": {},
                    "expect": render_case(ctu, t, convs[cn], TOOLS, True),
                }
            )
        probes = []
        for name, t, c in PROBES:
            try:
                probes.append(
                    {"name": name, "template": t, "context": c, "text": ctu._compile_jinja_template(t).render(**c)}
                )
            except Exception as e:
                probes.append({"name": name, "template": t, "context": c, "error": f"{type(e).__name__}: {e}"})
        jdump(
            d / "cases.json",
            {"now_local": FIXED_NOW.isoformat(), "defined_none": ["tools", "documents"], "cases": cases},
        )
        jdump(d / "probes.json", {"now_local": FIXED_NOW.isoformat(), "probes": probes})
        if real_dir:
            rc = []
            extra = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
            for f in sorted(Path(real_dir).glob("*.jinja")):
                t = f.read_text(encoding="utf-8")
                for cn, m in list(convs.items()) + list(vconvs.items()):
                    for tools in (None, TOOLS):
                        if tools and cn not in ("user", "tools_call", "sys_user"):
                            continue
                        rc.append(
                            {
                                "template": f.name,
                                "conv": cn,
                                "messages": m,
                                "tools": tools,
                                "add_generation_prompt": True,
                                "kwargs": extra,
                                "expect": render_case(ctu, t, m, tools, True, **extra),
                            }
                        )
                if f.stem.lower().startswith("smollm3"):  # the re-authored template must agree with the real one
                    bad = 0
                    for c in cases:
                        if c["template"] == "smollm3":
                            g = render_case(
                                ctu, t, c["messages"], c["tools"], c["add_generation_prompt"], **c["kwargs"]
                            )
                            bad += g.get("text") != c["expect"].get("text")
                    log(f"re-authored SmolLM3 template vs {f.name}: {bad} differences")
            jdump(d / "real_cases.json", {"now_local": FIXED_NOW.isoformat(), "cases": rc})
    return len(cases), len(probes)
