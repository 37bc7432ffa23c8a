"""tools/prices: exact money, what is left out and why, tiers, regions, a Hugging Face router's list; and the committed table."""
import hashlib
import importlib.machinery
import importlib.util
import json
import random
import re
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "server/providers/prices.json"
WHEELS = sorted((ROOT / "build").glob("litellm-*.whl"))  # never downloaded by a test


@pytest.fixture
def tool():
    loader = importlib.machinery.SourceFileLoader("prices", str(ROOT / "tools/prices"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("prices", loader))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def chat(provider="groq", **fields):
    return {"litellm_provider": provider, "mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, **fields}


def text_of(models):
    return json.dumps({"sample_spec": {"litellm_provider": "one of ...", "mode": "one of ..."}, **models})


class Made:
    """The table that the tool makes of a source's text, and what it said."""

    def __init__(self, tool, text, router=None):
        book = tool.Book(quiet=False)
        tool.read_litellm(book, text if isinstance(text, str) else text_of(text))
        if router:
            tool.read_router(book, json.dumps({"data": router}))
        self.text = tool.table(book, [{"name": "test", "version": "1", "date": "2026-01-31"}])
        self.models = {(m["provider"], m["model"], m.get("region", "")): m for m in json.loads(self.text)["models"]}
        assert list(self.models) == sorted(self.models)
        self.left = book.left


def tiers(model):
    return {(p.get("tier", "standard"), p.get("from", 0)): {k: v for k, v in p.items() if isinstance(v, list)} for p in model["prices"]}


@pytest.mark.parametrize("dollars,rate", [
    ("1e-6", [1000, 1]), ("0.0000025", [2500, 1]), ("6.875E-8", [68750, 1000]), ("1.5e-07", [150, 1]), ("7.5e-8", [75, 1]),
    ("2.5e-9", [2500, 1000]), ("5e-13", [500, 1000000]), ("0.01", [10000000, 1]), ("1E-9", [1, 1]),
    ("3.0e-10", [300, 1000]), ("0.000001", [1000, 1])])
def test_money_is_exact(tool, dollars, rate):
    made = Made(tool, text_of({"groq/m": chat(input_cost_per_token="X")}).replace('"X"', dollars))
    got = tiers(made.models["groq", "m", ""])["standard", 0]["in_uncached"]
    assert got == rate
    assert Fraction(got[0], got[1]) == Fraction(dollars) * 10**9


def test_money_of_random_decimals_is_exact_or_refused(tool):
    r = random.Random(1)
    cases = {f"groq/m{i}": f"{r.randint(1, 10 ** r.randint(1, 6))}E-{r.randint(6, 17)}" for i in range(5000)}
    made = Made(tool, re.sub(r'"(\d+E-\d+)"', r"\1", text_of({k: chat(input_cost_per_token=v) for k, v in cases.items()})))
    refused = 0
    for name, dollars in cases.items():
        nano = Fraction(dollars) * 10**9
        model = made.models.get(("groq", name[5:], ""))
        if model is None:
            assert nano > 10**7 or (nano * 10**6).denominator > 1, dollars
            refused += 1
            continue
        n, units = tiers(model)["standard", 0]["in_uncached"]
        assert Fraction(n, units) == nano and all((nano * u).denominator > 1 for u in (1, 1000) if u < units), dollars
    assert 500 < refused < 4500


LEFT = {
    "missing": (chat(output_cost_per_token=None), "not a number"),
    "zero": (chat(input_cost_per_token=0), "0, and nothing says that it is free"),
    "zero_out": (chat(output_cost_per_token=0.0), "0, and nothing says that it is free"),
    "zero_tier": (chat(input_cost_per_token_flex=0), "0, and nothing says that it is free"),
    "negative": (chat(input_cost_per_token=-1e-6), "negative"),
    "negative_cache": (chat(cache_read_input_token_cost=-1e-9), "negative"),
    "text": (chat(input_cost_per_token="0.000001"), "not a number"),
    "true": (chat(input_cost_per_token=True), "not a number"),
    "nan": (chat(input_cost_per_token=float("nan")), "not a number"),
    "infinity": (chat(input_cost_per_token=float("inf")), "not a number"),
    "absurd": (chat(input_cost_per_token=0.0100001), "N dollars for one is absurd"),
    "absurd_search": (chat(search_context_cost_per_query={"low": 10.5}), "N dollars for one is absurd"),
    "no_whole_nano": (chat(input_cost_per_token=1.0000000000000001e-16), "N dollars is no whole number of nano-dollars for a million"),
    "by_the_image": (chat(input_cost_per_image=0.001), "a price in a unit that no meter has"),
    "by_the_second": (chat(cost_per_second=0.001), "a price in a unit that no meter has"),
    "new_money": (chat(output_cost_per_widget=1e-6), "a price in a unit that no meter has"),
    "new_factor": (chat(provider_specific_entry={"mars": 2.0}), "['mars'] is not known"),
    "context": (chat(max_input_tokens=1.5), "1.5 is no number of tokens"),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_price_that_is_none_leaves_the_model_out(tool, name, capsys):
    row, why = LEFT[name]
    made = Made(tool, {f"groq/{name}": row, "groq/good": chat()})
    assert set(made.models) == {("groq", "good", "")}
    assert dict(made.left) == {why: 1}
    assert f"left out: groq/{name}: " in capsys.readouterr().err


def test_a_price_that_is_not_there_leaves_the_model_out(tool):
    row = chat()
    del row["output_cost_per_token"]
    made = Made(tool, {"groq/m": row, "groq/n": {"litellm_provider": "groq", "mode": "chat"}})
    assert not made.models and dict(made.left) == {"no price": 2}


def test_only_our_providers_chat_models_under_the_names_that_are_sent(tool):
    responses = {**chat("openai"), "mode": "responses"}
    made = Made(tool, {
        "gpt-x": chat("openai"), "openai/gpt-y": chat("openai"), "ft:gpt-x": chat("openai"), "claude-x": chat("anthropic"),
        "gemini/g": chat("gemini"), "together_ai/Qwen/q": chat("together_ai"), "together-ai-4.1b-8b": chat("together_ai"),
        "fireworks_ai/accounts/fireworks/models/f": chat("fireworks_ai"), "fireworks_ai/f": chat("fireworks_ai"),
        "cloudflare/@cf/meta/l": chat("cloudflare"), "text-embedding": {**chat("openai"), "mode": "embedding"},
        "someone/m": chat("someone_else"), "latest": {"alias_of": "gpt-x"}, "o-pro": responses,
        "o-both": {**responses, "supported_endpoints": ["/v1/chat/completions", "/v1/responses"]}})
    assert set(made.models) == {
        ("openai", "gpt-x", ""), ("openai", "gpt-y", ""), ("openai", "ft:gpt-x", ""), ("anthropic", "claude-x", ""), ("gemini", "g", ""),
        ("together", "Qwen/q", ""), ("fireworks", "accounts/fireworks/models/f", ""), ("cloudflare", "@cf/meta/l", ""),
        ("openai", "o-pro", ""), ("openai", "o-both", "")}
    assert made.models["openai", "o-pro", ""]["can"] == ["responses_only"] and made.models["openai", "o-both", ""]["can"] == []


def test_of_two_prices_for_one_name_the_first_provider_counts(tool):
    made = Made(tool, {"azure_ai/m": chat("azure_ai", input_cost_per_token=9e-6), "azure/m": chat("azure")})
    assert tiers(made.models["azure", "m", ""])["standard", 0]["in_uncached"] == [1000, 1]
    made = Made(tool, {"azure_ai/m": chat("azure_ai", input_cost_per_token=9e-6), "azure/m": chat("azure", input_cost_per_token=0)})
    assert tiers(made.models["azure", "m", ""])["standard", 0]["in_uncached"] == [9000, 1]  # the first one is none


def test_regions(tool):
    made = Made(tool, {
        "azure/m": chat("azure"), "azure/eu/m": chat("azure", input_cost_per_token=1.1e-6), "azure/us/m": chat("azure"),
        "azure/global-standard/n": chat("azure"), "x.m-v1:0": chat("bedrock_converse"),
        "bedrock/us-gov-west-1/x.m-v1:0": chat("bedrock", input_cost_per_token=3e-6),
        "bedrock/invoke/x.m-v1:0": chat("bedrock"), "bedrock/*/x.n": chat("bedrock"), "bedrock_mantle/x.m-v1:0": chat("bedrock_mantle"),
        "claude": chat("anthropic", provider_specific_entry={"us": 1.1, "fast": 6},
                       search_context_cost_per_query={"low": 0.01, "high": 0.02}),
        "gpt": chat("openai", regional_processing_uplift_multiplier_eu=1.1, cache_read_input_token_cost=1e-7)})
    assert set(made.models) == {
        ("azure", "m", ""), ("azure", "m", "eu"), ("azure", "n", "global"), ("bedrock", "x.m-v1:0", ""),
        ("bedrock", "x.m-v1:0", "us-gov-west-1"), ("bedrock-mantle", "x.m-v1:0", ""), ("anthropic", "claude", ""),
        ("anthropic", "claude", "us"), ("openai", "gpt", ""), ("openai", "gpt", "eu")}
    us = tiers(made.models["anthropic", "claude", "us"])
    assert us["standard", 0] == {"in_uncached": [1100, 1], "out_text": [2200, 1], "searches": [20000000, 1]}
    assert us["fast", 0] == {"in_uncached": [6600, 1], "out_text": [13200, 1]}
    assert tiers(made.models["openai", "gpt", "eu"])["standard", 0]["in_cache_read"] == [110, 1]


def test_tiers_and_what_they_leave_out(tool):
    made = Made(tool, {"gpt": chat(
        "openai", cache_read_input_token_cost=1e-7, cache_creation_input_token_cost=1.25e-6, cache_creation_input_token_cost_above_1hr=2e-6,
        input_cost_per_token_above_200k_tokens=2e-6, output_cost_per_token_above_200k_tokens=3e-6,
        input_cost_per_token_flex=5e-7, output_cost_per_token_flex=1e-6,
        input_cost_per_token_priority=2e-6, output_cost_per_token_priority=4e-6, cache_read_input_token_cost_priority=2e-7,
        input_cost_per_token_decisions=1e-9)})
    got = tiers(made.models["openai", "gpt", ""])
    assert list(got) == [("standard", 0), ("standard", 200001), ("flex", 0), ("flex", 200001), ("priority", 0), ("priority", 200001)]
    cached = {"in_cache_read": [100, 1], "in_cache_write_5m": [1250, 1], "in_cache_write_1h": [2000, 1]}
    assert got["standard", 0] == {"in_uncached": [1000, 1], **cached, "out_text": [2000, 1]}
    # A longer context: cached tokens and writes fall back to its own 2000.
    assert got["standard", 200001] == {"in_uncached": [2000, 1], "out_text": [3000, 1]}
    # A discount: what it leaves out costs as in the standard tier.
    assert got["flex", 0] == {"in_uncached": [500, 1], **cached, "out_text": [1000, 1]}
    assert got["flex", 200001] == {"in_uncached": [2000, 1], "out_text": [3000, 1]}
    # A dearer tier: the dearest of its neighbours.
    assert got["priority", 0] == {"in_uncached": [2000, 1], "in_cache_read": [200, 1], "out_text": [4000, 1]}
    assert got["priority", 200001] == {"in_uncached": [2000, 1], "out_text": [4000, 1]}


def test_meters_of_their_own(tool):
    made = Made(tool, {"gemini/g": chat(
        "gemini", input_cost_per_audio_token=3e-6, output_cost_per_reasoning_token=4e-6, output_cost_per_audio_token=8e-6,
        supports_vision=True, cache_creation_input_token_cost=0, cache_creation_input_token_cost_above_12hr=5e-6,
        max_input_tokens=1048576.0, max_output_tokens=8192)})
    model = made.models["gemini", "g", ""]
    assert tiers(model)["standard", 0] == {
        "in_uncached": [1000, 1], "in_cache_write_1h": [5000, 1], "in_audio": [3000, 1], "out_text": [2000, 1], "out_reasoning": [4000, 1],
        "out_audio": [8000, 1]}
    assert model["can"] == ["image", "audio", "audio_out"] and model["context"] == 1048576 and model["max_output"] == 8192


def test_the_table_does_not_depend_on_the_sources_order(tool):
    models = {f"{source}/m{i}": chat(source, supports_vision=True, supports_reasoning=True)
              for i in range(9) for source in ("groq", "azure", "azure_ai")}
    back = dict(reversed([(k, dict(reversed(v.items()))) for k, v in models.items()]))
    assert Made(tool, models).text == Made(tool, back).text


def provider(name, **fields):
    return {"provider": name, "status": "live", "pricing": {"input": 0.1, "output": 0.25}, **fields}


def test_a_routers_list(tool):
    made = Made(tool, {"groq/m": chat()}, [
        {"id": "org/a", "architecture": {"input_modalities": ["text", "image"]},
         "providers": [provider("groq", supports_tools=True, context_length=8192),
                       provider("together", pricing={"input": 0.3, "output": 0.2001}, context_length=4096),
                       provider("down", status="error", pricing={"input": 9, "output": 9})]},
        {"id": "org/b", "providers": [provider("x", pricing={"input": 0.1}), provider("y")]},
        {"id": "org/c", "providers": [provider("x", is_free=True, pricing=None)]},
        {"id": "org/d", "providers": [provider("x", pricing={"input": 0, "output": 0})]},
        {"id": "org/e", "providers": []}])
    hf = {k[1]: v for k, v in made.models.items() if k[0] == "huggingface"}
    assert set(hf) == {"org/a", "org/a:groq", "org/a:together", "org/b:y", "org/c", "org/c:x"}
    assert tiers(hf["org/a:groq"]) == {("standard", 0): {"in_uncached": [100, 1], "out_text": [250, 1]}}
    assert hf["org/a:groq"]["can"] == ["image", "tools"]
    # The router chooses: the dearest of each meter, and what all of them can.
    assert tiers(hf["org/a"]) == {("standard", 0): {"in_uncached": [300, 1], "out_text": [250, 1]}}
    assert hf["org/a"]["can"] == ["image"] and hf["org/a"]["context"] == 4096
    assert hf["org/c"]["can"] == ["free"] and tiers(hf["org/c"])["standard", 0] == {"in_uncached": [0, 1], "out_text": [0, 1]}
    assert made.left["one that the router may choose has no price"] == 2


def fake_wheel(tmp_path, text):
    with zipfile.ZipFile(tmp_path / "litellm-0-py3-none-any.whl", "w") as z:
        z.writestr("litellm/model_prices_and_context_window_backup.json", text)
        z.writestr("litellm-0.dist-info/licenses/LICENSE", "MIT License\n\nCopyright someone\n")
    return tmp_path / "litellm-0-py3-none-any.whl"


def run(tool, monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["prices", *map(str, args)])
    return tool.main()


def test_a_wheel_becomes_a_table_and_a_notice(tool, tmp_path, monkeypatch, capsys):
    text = text_of({"groq/m": chat()})
    wheel = fake_wheel(tmp_path, text)
    with pytest.raises(SystemExit) as other:
        run(tool, monkeypatch, "--wheel", wheel, "--out", tmp_path)  # not the file whose digest is known
    assert hashlib.sha256(text.encode()).hexdigest() in str(other.value) and not (tmp_path / "prices.json").exists()
    tool.SHA256 = hashlib.sha256(text.encode()).hexdigest()
    assert run(tool, monkeypatch, "--wheel", wheel, "--out", tmp_path, "--check")
    assert not (tmp_path / "prices.json").exists()
    assert not run(tool, monkeypatch, "--wheel", wheel, "--out", tmp_path)
    assert json.loads((tmp_path / "prices.json").read_text())["version"] == f"litellm-{tool.VERSION}"
    assert "Copyright someone" in (tmp_path / "prices.NOTICE").read_text()
    assert not run(tool, monkeypatch, "--wheel", wheel, "--out", tmp_path, "--check")
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"data": [{"id": "org/a", "providers": [provider("groq")]}]}))
    with_list = ("--wheel", wheel, "--out", tmp_path, "--huggingface", listed, "--date", "2026-02-01")
    assert run(tool, monkeypatch, *with_list, "--check")
    assert not run(tool, monkeypatch, *with_list)
    table = json.loads((tmp_path / "prices.json").read_text())
    assert table["version"].endswith("+huggingface-2026-02-01") and table["date"] == max(tool.DATE, "2026-02-01")
    assert len(table["models"]) == 3
    (tmp_path / "prices.NOTICE").write_text("")
    assert run(tool, monkeypatch, *with_list, "--check")
    assert "prices.NOTICE: is not what tools/prices makes" in capsys.readouterr().err


# --- the committed table; its reader's own tests are in tests/unit/test_price_book.c ---
def test_the_committed_table_is_of_the_tools_source(tool):
    table = json.loads(TABLE.read_text(), parse_float=lambda text: pytest.fail(f"a fraction: {text}"))
    assert table["sources"] == [{"name": "litellm", "version": tool.VERSION, "date": tool.DATE, "sha256": tool.SHA256, "licence": "MIT"}]
    notice = (TABLE.parent / "prices.NOTICE").read_text()
    assert f"litellm {tool.VERSION}" in notice and "MIT License" in notice
    keys = [(m["provider"], m["model"], m.get("region", "")) for m in table["models"]]
    assert keys == sorted(set(keys)) and {k[0] for k in keys} <= set(tool.PROVIDERS.values())
    assert TABLE.stat().st_size < 600000
    for m in table["models"]:
        for (service, start), rates in tiers(m).items():
            assert service in tool.SERVICES and (start == 0 or start % 1000 == 1)
            for meter, (nano, units) in rates.items():
                assert meter in tool.METERS and nano > 0 and units in tool.UNITS
                assert units == 1 or nano % 1000, (m["model"], meter)  # the smallest units


@pytest.mark.skipif(not WHEELS, reason="litellm's wheel is not in build/ (pip download)")
def test_the_committed_table_is_what_the_tool_makes(tool, monkeypatch):
    assert not run(tool, monkeypatch, "--wheel", WHEELS[-1], "--quiet", "--check")
