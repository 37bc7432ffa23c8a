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


def without_video(template):
    """The same as the first SmolVLM folders have it."""
    return template.replace("{% elif line['type'] == 'video' %}{{ '<video>' }}", "")


def chat_case(ctu, name, template, conv, messages, tools=None, agp=True, **kwargs):
    return {
        "template": name,
        "conv": conv,
        "messages": messages,
        "tools": tools,
        "add_generation_prompt": agp,
        "kwargs": kwargs,
        "expect": render_case(ctu, template, messages, tools, agp, **kwargs),
    }


def smollm3_cases(ctu, convs):
    """What only this template knows: tools in three spellings, and thinking switched on and off."""
    options = [
        {"enable_thinking": False},
        {"enable_thinking": True},
        {"xml_tools": TOOLS},
        {"python_tools": ["def f(x: int) -> int: ...", "def g(): ..."]},
        {"xml_tools": TOOLS[:1], "python_tools": ["def f(x): ..."], "enable_thinking": False},
    ]
    cases = []
    for conv in ("user", "sys_user", "multi", "no_think", "override", "tools_call", "spaces"):
        cases += [chat_case(ctu, "smollm3", SMOLLM3_TPL, conv, convs[conv], **kw) for kw in options]
        cases.append(chat_case(ctu, "smollm3", SMOLLM3_TPL, conv, convs[conv], TOOLS))
    return cases


def probe_cases(ctu):
    cases = []
    for name, template, context in PROBES:
        case = {"name": name, "template": template, "context": context}
        try:
            case["text"] = ctu._compile_jinja_template(template).render(**context)
        except Exception as e:
            case["error"] = f"{type(e).__name__}: {e}"
        cases.append(case)
    return cases


def real_cases(ctu, folder, convs, own_cases):
    """Templates of model files, which are not ours to keep here; the re-authored SmolLM3 template must agree with the real one."""
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    cases = []
    for f in sorted(Path(folder).glob("*.jinja")):
        template = f.read_text(encoding="utf-8")
        for conv, messages in convs:
            for tools in (None, TOOLS) if conv in ("user", "tools_call", "sys_user") else (None,):
                cases.append(chat_case(ctu, f.name, template, conv, messages, tools, **tokens))
        if f.stem.lower().startswith("smollm3"):
            differ = 0
            for c in (c for c in own_cases if c["template"] == "smollm3"):
                got = render_case(ctu, template, c["messages"], c["tools"], c["add_generation_prompt"], **c["kwargs"])
                differ += got.get("text") != c["expect"].get("text")
            log(f"re-authored SmolLM3 template vs {f.name}: {differ} differences")
    return cases


def section_tpl(seed, out, real_dir=None):
    d = out / "templates"
    d.mkdir(parents=True, exist_ok=True)
    default = vlm_default_template()
    templates = {"smollm1": SMOLLM1_TPL, "smollm2": SMOLLM2_TPL, "smollm3": SMOLLM3_TPL, "smolvlm2_default": default}
    templates["smolvlm"] = without_video(default)
    convs, vconvs = conversations(seed), vlm_conversations(seed)
    now = {"now_local": FIXED_NOW.isoformat()}
    with frozen_clock() as ctu:
        cases = []
        for name, template in templates.items():
            (d / f"{name}.jinja").write_text(template, encoding="utf-8")
            for conv, messages in (vconvs if "vlm" in name else convs).items():
                cases += [chat_case(ctu, name, template, conv, messages, agp=agp) for agp in (False, True)]
        cases += smollm3_cases(ctu, convs)
        probes = probe_cases(ctu)
        jdump(d / "cases.json", {**now, "defined_none": ["tools", "documents"], "cases": cases})
        jdump(d / "probes.json", {**now, "probes": probes})
        if real_dir:
            both = [*convs.items(), *vconvs.items()]
            jdump(d / "real_cases.json", {**now, "cases": real_cases(ctu, real_dir, both, cases)})
    log("templates:", len(cases), "cases,", len(probes), "probes")
