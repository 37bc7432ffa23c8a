"""What the template section renders: templates, conversations, and one-feature probes of the template language."""

from .common import rng_for
from .corpus import random_texts

SMOLLM1_TPL = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2_TPL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Written for this generator: renders the same strings as the SmolLM3-3B template of July 2025
# (checked against it with --real-templates) and uses the same language features.
SMOLLM3_TPL = r"""{# SmolLM3-style template, re-authored for tests #}
{%- if enable_thinking is not defined -%}
  {%- set enable_thinking = true -%}
{%- endif -%}
{%- set mode = "/think" if enable_thinking else "/no_think" -%}
{{- "<|im_start|>system\n" -}}
{%- if messages[0].role == "system" -%}
  {%- set sysmsg = messages[0].content -%}
  {%- if "/no_think" in sysmsg -%}
    {%- set mode = "/no_think" -%}
  {%- elif "/think" in sysmsg -%}
    {%- set mode = "/think" -%}
  {%- endif -%}
  {%- set custom = sysmsg.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}

{%- if "/system_override" in sysmsg -%}
  {{- custom.replace("/system_override", "").rstrip() ~ "<|im_end|>\n" -}}
{%- else -%}
  {%- set today = strftime_now("%d %B %Y") -%}
  {{- "## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: " ~ today ~ "\nReasoning Mode: " + mode + "\n\n## Custom Instructions\n\n" -}}
  {%- if custom -%}
    {{- custom + "\n\n" -}}
  {%- elif mode == "/think" -%}
    {{- "@THINK_PROMPT@\n\n" -}}
  {%- else -%}
    {{- "You are a helpful AI assistant named SmolLM, trained by Hugging Face.\n\n" -}}
  {%- endif -%}
  {%- if xml_tools or python_tools or tools -%}
    {{- "### Tools\n\n" -}}
    {%- if xml_tools or tools -%}
      {%- set ns = namespace(buf="You may call one or more functions to assist with the user query.\nYou are provided with function signatures within <tools></tools> XML tags:\n\n<tools>\n") -%}
      {%- for tool in (tools or xml_tools)[:] -%}
        {%- set ns.buf = ns.buf ~ (tool | string) ~ "\n" -%}
      {%- endfor -%}
      {{- ns.buf + "</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>" -}}
    {%- endif -%}
    {%- if python_tools -%}
      {%- set ns = namespace(buf="When you send a message containing Python code between '<code>' and '</code>' tags, it will be executed in a stateful Jupyter notebook environment, and you will then be given the output to continued reasoning in an agentic loop.\n\nYou can use the following tools in your python code like regular functions:\n<tools>\n") -%}
      {%- for tool in python_tools[:] -%}
        {%- set ns.buf = ns.buf ~ (tool | string) ~ "\n" -%}
      {%- endfor -%}
      {{- ns.buf + "</tools>\n\nThe state persists between code executions: so variables that you define in one step are still available thereafter." -}}
    {%- endif -%}
    {{- "\n\n<|im_end|>\n" -}}
  {%- endif -%}
{%- endif -%}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>" + message.role + "\n"  + content + "<|im_end|>\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {%- if mode == "/think" -%}
            {{ "<|im_start|>assistant\n" + content.lstrip("\n") + "<|im_end|>\n" }}
        {%- else -%}
            {{ "<|im_start|>assistant\n" + "<think>\n\n</think>\n" + content.lstrip("\n") + "<|im_end|>\n" }}
        {%- endif -%}
        {% endgeneration %}
    {%- elif message.role == "tool" -%}
    {{ "<|im_start|>" + "user\n"  + content + "<|im_end|>\n" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if mode == "/think" -%}
        {{ "<|im_start|>assistant\n" }}
    {%- else -%}
        {{ "<|im_start|>assistant\n" + "<think>\n\n</think>\n"  }}
    {%- endif -%}
{%- endif -%}"""
THINK_PROMPT = (
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face. Your role as an assistant involves thoroughly exploring "
    "questions through a systematic thinking process before providing the final precise and accurate solutions. This requires engaging "
    "in a comprehensive cycle of analysis, summarizing, exploration, reassessment, reflection, backtracking, and iteration to develop "
    "well-considered thinking process. Please structure your response into two main sections: Thought and Solution using the specified "
    "format: <think> Thought section </think> Solution section. In the Thought section, detail your reasoning process in steps. Each step "
    "should include detailed considerations such as analysing questions, summarizing relevant findings, brainstorming new ideas, verifying "
    "the accuracy of the current steps, refining any errors, and revisiting previous steps. In the Solution section, based on various "
    "attempts, explorations, and reflections from the Thought section, systematically present the final solution that you deem correct. The "
    "Solution section should be logical, accurate, and concise and detail necessary steps needed to reach the conclusion."
)
SMOLLM3_TPL = SMOLLM3_TPL.replace("@THINK_PROMPT@", THINK_PROMPT)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'Gets "the" weather — it\'s <b>bold</b> & café',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "City\nname"},
                    "unit": {"type": "string", "enum": ["c", "f"], "default": None},
                    "days": {"type": "integer", "minimum": 1, "maximum": 14, "default": 3},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "a\\b 'single' only",
            "parameters": {
                "type": "object",
                "properties": {
                    "x": {"type": "number", "default": 1.5},
                    "y": {"type": "number", "default": 1e-07},
                    "z": {"default": 1e16},
                    "big": {"default": 12345678901234567890},
                    "neg": {"default": -0.0},
                },
            },
        },
    },
]


def conversations(seed):
    r = rng_for(seed, "conv")
    rt = random_texts(seed + 1, 24)
    u = lambda s: {"role": "user", "content": s}
    a = lambda s: {"role": "assistant", "content": s}
    y = lambda s: {"role": "system", "content": s}
    c = {
        "user": [u("Hello!")],
        "sys_user": [y("Be brief."), u("Hi")],
        "multi": [y("S"), u("1"), a("2"), u("3"), a("4"), u("5")],
        "empty_content": [u("")],
        "assistant_last": [u("q"), a("partial")],
        "spaces": [y("  padded  \n"), u("\n\nx\n\n"), a("\n\nlead"), u(" ")],
        "no_think": [y("Be nice. /no_think"), u("q"), a("r"), u("q2")],
        "think": [y("/think only"), u("q")],
        "both": [y("/think /no_think x"), u("q")],
        "override": [y("You are X./system_override  "), u("q")],
        "override_nt": [y("/no_think/system_override Zed"), u("q"), a("\nans"), u("z")],
        "unicode": [y("Réponds 😀"), u("你好 <|im_end|> שלום"), a("<think>a</think>b"), u("\u0000\u2028é")],
        "tools_call": [
            u("weather?"),
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "type": "function",
                        "id": "call12345",
                        "function": {"name": "get_weather", "arguments": {"city": "Paris", "days": 2}},
                    }
                ],
            },
            {"role": "tool", "content": '{"t": 21}', "name": "get_weather", "tool_call_id": "call12345"},
            a("21°"),
            u("thanks"),
        ],
        "null_content": [u("x"), {"role": "assistant", "content": None}, u("y")],
        "list_content": [
            {"role": "user", "content": [{"type": "text", "text": "part one"}, {"type": "text", "text": " two"}]}
        ],
        "odd_role": [{"role": "developer", "content": "dev"}, u("x")],
        "reasoning": [u("x"), {"role": "assistant", "content": "ans", "reasoning_content": "hmm"}, u("y")],
    }
    for i in range(8):
        m = [y(rt[3 * i])] if r.random() < 0.5 else []
        for k in range(int(r.integers(1, 4))):
            m += [u(rt[(3 * i + 2 * k + 1) % 24]), a(rt[(3 * i + 2 * k + 2) % 24])]
        c[f"rand{i}"] = m[:-1] if r.random() < 0.7 else m
    return c


def vlm_conversations(seed):
    im, vi = {"type": "image"}, {"type": "video"}
    t = lambda s: {"type": "text", "text": s}
    return {
        "img_text": [{"role": "user", "content": [im, t("What is this?")]}],
        "text_img": [{"role": "user", "content": [t("Look: "), im]}],
        "two": [{"role": "user", "content": [im, im, t("Compare")]}],
        "interleave": [{"role": "user", "content": [t("A "), im, t(" B "), im, t(" C")]}],
        "sys": [{"role": "system", "content": [t("Be terse.")]}, {"role": "user", "content": [im, t("q")]}],
        "turns": [
            {"role": "user", "content": [im, t("q1")]},
            {"role": "assistant", "content": [t("a1")]},
            {"role": "user", "content": [t("q2")]},
        ],
        "text_only": [{"role": "user", "content": [t("just text")]}],
        "video": [{"role": "user", "content": [vi, t("Describe")]}],
        "video_after": [{"role": "user", "content": [t("See "), vi]}],
        "capitalize": [{"role": "uSER", "content": [t("x")]}],
        "string_content": [{"role": "user", "content": "plain string"}],
        "empty_list": [{"role": "user", "content": []}],
    }


PROBES = [
    # (name, template, context)
    ("trim_blocks", "{% if true %}\nA\n{% endif %}\nB", {}),
    ("lstrip_blocks", "x\n   {% if true %}y{% endif %}\n", {}),
    ("lstrip_var_not", "x\n   {{ 1 }}\n", {}),
    ("ws_minus", "a  {%- if true -%}  b  {%- endif -%}  c", {}),
    ("ws_plus", "a\n  {%+ if true %}b{% endif %}", {}),
    ("var_minus", "a \n {{- 'b' -}} \n c", {}),
    ("comment", "a{# c #}b\n{#- d -#}\ne", {}),
    ("comment_trim", "a\n  {# c #}\nb", {}),
    ("raw", "{% raw %}{{ x }}{% endraw %}", {}),
    ("final_newline", "a\n", {}),
    ("final_newlines", "a\n\n", {}),
    ("crlf", "a\r\nb\r\n", {}),
    ("str_escapes", "{{ 'a\\n\\t\\\\\\'\\x41\\u00e9' }}", {}),
    ("none_out", "{{ none }}|{{ None }}|{{ true }}|{{ False }}", {}),
    ("undef_out", "[{{ nope }}]", {}),
    ("undef_attr", "{{ nope.x }}", {}),
    ("undef_item", "{{ a.b.c }}", {"a": {}}),
    ("undef_in", "{{ 'x' in nope }}|{{ nope is defined }}|{{ nope is undefined }}|{{ not nope }}", {}),
    ("undef_add", "{{ nope + 'x' }}", {}),
    ("undef_tilde", "{{ nope ~ 'x' }}", {}),
    ("undef_len", "{{ nope|length }}", {}),
    ("undef_for", "{% for x in nope %}{{x}}{% else %}E{% endfor %}", {}),
    ("undef_eq", "{{ nope == none }}|{{ nope == '' }}|{{ nope != 1 }}", {}),
    ("dict_attr", "{{ d.a }}{{ d['a'] }}{{ d.zz }}{{ d.items is defined }}", {"d": {"a": 1}}),
    ("attr_shadow", "{{ d['keys'] }}{{ d.kk }}{{ d.get('keys') }}", {"d": {"keys": "v", "kk": "w"}}),
    (
        "loop_vars",
        "{% for x in l %}{{loop.index}},{{loop.index0}},{{loop.revindex}},{{loop.revindex0}},{{loop.first}},{{loop.last}},{{loop.length}};{% endfor %}",
        {"l": [5, 6, 7]},
    ),
    (
        "loop_prev_next",
        "{% for x in l %}{{loop.previtem is defined}}{{loop.previtem}}-{{loop.nextitem is defined}}{{loop.nextitem}};{% endfor %}",
        {"l": ["a", "b", "c"]},
    ),
    ("loop_cycle", "{% for x in l %}{{loop.cycle('a','b')}}{{loop.changed(x)}}{% endfor %}", {"l": [1, 1, 2]}),
    ("for_if", "{% for x in l if x > 1 %}{{x}}/{{loop.length}} {% endfor %}", {"l": [1, 2, 3]}),
    ("for_else", "{% for x in [] %}x{% else %}none{% endfor %}", {}),
    (
        "for_dict",
        "{% for k in d %}{{k}}{% endfor %}|{% for k, v in d.items() %}{{k}}={{v}};{% endfor %}",
        {"d": {"b": 1, "a": 2}},
    ),
    ("for_items_filter", "{% for k, v in d|items %}{{k}}={{v}};{% endfor %}", {"d": {"b": 1, "a": 2}}),
    ("dictsort", "{% for k, v in d|dictsort %}{{k}}={{v}};{% endfor %}", {"d": {"b": 1, "A": 2, "a": 3}}),
    ("for_scope", "{% set x = 1 %}{% for i in [1,2] %}{% set x = x + i %}{{x}}{% endfor %}{{x}}", {}),
    ("if_scope", "{% if true %}{% set x = 5 %}{% endif %}{{x}}", {}),
    (
        "namespace",
        "{% set ns = namespace(n=0, s='') %}{% for i in [1,2,3] %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ns.n}}{{ns.s}}",
        {},
    ),
    (
        "break_continue",
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{i}}{% endfor %}",
        {},
    ),
    ("macro", "{% macro m(a, b='z') %}[{{a}}{{b}}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(b=3, a=4) }}{{ m() }}", {}),
    ("macro_varargs", "{% macro m() %}{{varargs}}{{kwargs}}{% endmacro %}{{ m(1, x=2) }}", {}),
    ("macro_recursive", "{% macro f(n) %}{% if n %}{{n}}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(3) }}", {}),
    ("macro_global", "{% set g = 7 %}{% macro m() %}{{g}}{% endmacro %}{{ m() }}", {}),
    ("call_block", "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}", {}),
    ("set_block", "{% set x %} a{{1}} {% endset %}[{{x}}]", {}),
    ("set_block_filter", "{% set x | trim | upper %} ab {% endset %}[{{x}}]", {}),
    ("filter_block", "{% filter upper %}ab{{ 'c' }}{% endfilter %}", {}),
    ("set_tuple", "{% set a, b = 1, 2 %}{{b}}{{a}}", {}),
    ("generation", "a{% generation %}\n b {% endgeneration %}\nc", {}),
    ("with", "{% with a=1 %}{{a}}{% endwith %}[{{a}}]", {}),
    ("condexpr", "{{ 'y' if t else 'n' }}{{ 'y' if f }}|", {"t": 1, "f": 0}),
    ("and_or", "{{ 0 or 'x' }}{{ 1 and 'y' }}{{ '' or none }}{{ not '' }}", {}),
    ("compare_chain", "{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}", {}),
    ("in_ops", "{{ 'a' in 'cat' }}{{ 'x' not in ['x'] }}{{ 'k' in {'k': 1} }}{{ 2 in [1,2] }}", {}),
    (
        "arith",
        "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 1.0 }} {{ 1e20 }} {{ 0.1 + 0.2 }} {{ 6 / 2 }}",
        {},
    ),
    ("str_mul", "{{ 'ab' * 3 }}{{ [1] * 2 }}", {}),
    ("list_add", "{{ [1] + [2, 'x'] }}", {}),
    ("tilde", "{{ 1 ~ 'a' ~ none ~ true ~ 1.5 }}", {}),
    ("percent_fmt", "{{ '%s-%d' % ('a', 3) }}", {}),
    ("add_type_err", "{{ 'a' + 1 }}", {}),
    (
        "slices",
        "{{ l[1:] }}{{ l[:-1] }}{{ l[::-1] }}{{ l[1:3] }}{{ l[-2:] }}{{ l[::2] }}{{ 'hello'[1:-1] }}{{ 'hello'[::-1] }}",
        {"l": [1, 2, 3, 4]},
    ),
    ("neg_index", "{{ l[-1] }}{{ 'abc'[-1] }}[{{ l[9] }}]", {"l": [1, 2]}),
    (
        "str_methods",
        "{{ ' a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'a,b,,c'.split(',') }}|{{ ' a  b '.split() }}|{{ 'a-b-c'.split('-', 1) }}|{{ 'a-b-c'.rsplit('-', 1) }}",
        {},
    ),
    (
        "str_methods2",
        "{{ 'aXbX'.replace('X', '-') }}{{ 'aXbX'.replace('X', '-', 1) }}{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'aB'.upper() }}{{ 'aB'.lower() }}{{ 'hello world'.title() }}{{ 'aB'.swapcase() }}",
        {},
    ),
    (
        "str_methods3",
        "{{ 'hELLO wORLD'.capitalize() }}{{ 'xx'.lstrip('x') }}|{{ 'axx'.rstrip('x') }}|{{ '\n\nq\n'.lstrip('\n') }}|{{ ','.join(['a','b']) }}{{ 'abc'.find('c') }}{{ 'abc'.find('z') }}{{ 'a.b'.partition('.') }}{{ 'aa'.count('a') }}{{ '12'.isdigit() }}{{ 'ab'.index('b') }}",
        {},
    ),
    (
        "str_format",
        "{{ 'a{}b{x}'.format(1, x=2) }}|{{ 'ab'.removeprefix('a') }}{{ 'ab'.zfill(4) }}{{ 'é'.encode is defined }}",
        {},
    ),
    ("splitlines", "{{ 'a\nb\r\nc'.splitlines() }}", {}),
    (
        "dict_methods",
        "{{ d.get('a') }}{{ d.get('z') }}{{ d.get('z', 9) }}{{ d.keys()|list }}{{ d.values()|list }}{{ d.items()|list }}",
        {"d": {"a": 1, "b": 2}},
    ),
    ("list_mutate", "{% set l = [1] %}{% set _ = l.append(2) %}{{ l }}", {}),
    ("dict_update", "{% set d = {'a': 1} %}{% set _ = d.update({'b': 2}) %}{{ d }}", {}),
    ("f_trim", "[{{ ' a\n'|trim }}][{{ 'xax'|trim('x') }}]", {}),
    ("f_length", "{{ 'héé'|length }}{{ [1,2]|count }}{{ {'a':1}|length }}", {}),
    ("f_case", "{{ 'aB cD'|upper }}{{ 'aB'|lower }}{{ 'aB cD'|capitalize }}{{ 'aB cD-eF'|title }}", {}),
    (
        "f_string",
        "{{ d|string }}",
        {
            "d": {
                "a": [1, 2.5, None, True, "x'y", 'q"z', "both'\"", "nl\n", "é😀", "\\", "\x00\x7f\u00a0\u200b"],
                "b": {},
                "c": [],
                "t": 1e16,
                "u": 1e-05,
                "v": -0.0,
                "w": 123456789012345678,
            }
        },
    ),
    ("f_list", "{{ 'abc'|list }}{{ {'a':1}|list }}", {}),
    (
        "f_join",
        "{{ [1,'a',none]|join('-') }}{{ ['a','b']|join }}{{ l|join(',', attribute='n') }}",
        {"l": [{"n": 1}, {"n": 2}]},
    ),
    ("f_first_last", "{{ [1,2]|first }}{{ [1,2]|last }}[{{ []|first }}]", {}),
    (
        "f_default",
        "{{ nope|default('d') }}{{ ''|default('d') }}{{ ''|default('d', true) }}{{ none|default('x') }}{{ nope|d(1) }}",
        {},
    ),
    ("f_replace", "{{ 'aXbX'|replace('X', '-') }}", {}),
    (
        "f_int_float",
        "{{ '42'|int }}{{ 'x'|int(7) }}{{ '1.5'|float }}{{ 3.9|int }}{{ 3.456|round(1) }}{{ 2.5|round }}{{ -3|abs }}",
        {},
    ),
    (
        "f_map",
        "{{ l|map(attribute='n')|list }}{{ ['a','b']|map('upper')|join }}{{ l|map(attribute='z', default=0)|list }}",
        {"l": [{"n": 1}, {"n": 2}]},
    ),
    (
        "f_select",
        "{{ [0,1,2]|select|list }}{{ [1,2,3]|select('odd')|list }}{{ [1,2,3]|reject('equalto', 2)|list }}",
        {},
    ),
    (
        "f_selectattr",
        "{{ l|selectattr('r', 'equalto', 'u')|list|length }}{{ l|selectattr('x')|list|length }}{{ l|rejectattr('r', 'eq', 'u')|map(attribute='r')|list }}{{ l|selectattr('x', 'defined')|list|length }}",
        {"l": [{"r": "u"}, {"r": "a", "x": 1}, {"r": "u", "x": 0}]},
    ),
    (
        "f_sort_unique",
        "{{ [3,1,2]|sort }}{{ ['b','A','a']|sort }}{{ ['b','A','a']|unique|list }}{{ [3,1]|sort(reverse=true) }}{{ l|sort(attribute='n')|map(attribute='n')|list }}",
        {"l": [{"n": 2}, {"n": 1}]},
    ),
    (
        "f_minmaxsum",
        "{{ [3,1,2]|min }}{{ [3,1,2]|max }}{{ [3,1,2]|sum }}{{ [1,2,3]|reverse|list }}{{ 'abc'|reverse }}",
        {},
    ),
    ("f_batch_slice", "{{ [1,2,3]|batch(2)|list }}", {}),
    ("f_indent", "{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\nb'|indent(first=true) }}", {}),
    ("f_escape", "{{ '<&\">\\''|e }}|{{ '<b>'|safe }}|{{ '<b>' }}", {}),
    ("f_wordcount", "{{ 'a b c'|wordcount }}{{ 'a'|center(5) }}|", {}),
    (
        "f_groupby",
        "{% for k, v in l|groupby('r') %}{{k}}:{{v|length}};{% endfor %}",
        {"l": [{"r": "b"}, {"r": "a"}, {"r": "b"}]},
    ),
    (
        "tojson",
        "{{ d|tojson }}",
        {
            "d": {
                "s": "é<>&'\"\\/\n\t\u0000\u007f\u2028😀",
                "n": None,
                "t": True,
                "f": 1.5,
                "i": 3,
                "e": 1e100,
                "l": [],
                "o": {},
                "nest": [{"a": 1}],
                "neg0": -0.0,
                "int_float": 2.0,
            }
        },
    ),
    ("tojson_indent", "{{ d|tojson(indent=4) }}\n{{ d|tojson(indent=2) }}", {"d": {"a": [1, {"b": []}], "c": {}}}),
    (
        "tojson_sep",
        "{{ d|tojson(separators=(',', ':')) }}{{ d|tojson(sort_keys=true) }}{{ 'é'|tojson(ensure_ascii=true) }}",
        {"d": {"b": 1, "a": [1, 2]}},
    ),
    ("tojson_positional", "{{ d|tojson(2) }}{{ d|tojson(false, 2) }}{{ d|tojson(true, none, none, true) }}", {"d": {"b": ["é"], "a": 1}}),
    ("round_exact", "{{ 42|round }} {{ 2.675|round(2) }} {{ 2.5|round }} {{ 7.5|round(0, 'floor') }} {{ 42|round(0, 'ceil') }} {{ 12345|round(-2) }} {{ 1e20|round }} {{ 0.1|round(20) }}", {}),
    (
        "int_base",
        "{{ '0x1f'|int(0, 16) }} {{ '1f'|int(0, 16) }} {{ '12'|int(5, 8) }} {{ '0b11'|int(0, 2) }} {{ 'zz'|int(7, 36) }} {{ '9'|int(5, 8) }} {{ 3.9|int(0, 16) }} {{ '1_000'|int }} {{ '1__0'|int(4) }}"
        " {{ '12.7'|int }} {{ ' -7 '|int }} {{ '-'|int(3) }} {{ '0x'|int(3, 16) }}",
        {},
    ),
    ("tojson_macro_str", '{% set x %}a"b{% endset %}{{ x|tojson }}', {}),
    (
        "t_types",
        "{{ 1 is number }}{{ '1' is string }}{{ {} is mapping }}{{ [] is iterable }}{{ 'a' is iterable }}{{ [] is sequence }}{{ 'a' is sequence }}{{ {} is sequence }}{{ none is none }}{{ true is boolean }}{{ 1 is boolean }}{{ true is number }}{{ 1.0 is float }}{{ 1 is integer }}{{ true is integer }}",
        {},
    ),
    (
        "t_misc",
        "{{ 4 is divisibleby 2 }}{{ 3 is odd }}{{ 3 is even }}{{ 'a' is eq 'a' }}{{ 'a' is equalto('b') }}{{ 1 is lt 2 }}{{ 'a' is in ['a'] }}{{ true is true }}{{ false is false }}{{ 'ab' is lower }}{{ x is callable }}{{ none is not none }}",
        {"x": 1},
    ),
    ("range", "{{ range(3)|list }}{{ range(1, 4)|list }}{{ range(5, 0, -2)|list }}", {}),
    ("dict_fn", "{{ dict(a=1, b='x') }}", {}),
    ("literals", "{{ [1, 'a', none, true] }}{{ {'a': [1], 2: 'b'} }}{{ (1, 'x') }}{{ (1,) }}{{ 1_000 }}", {}),
    ("raise", "{{ raise_exception('boom ' ~ 1) }}", {}),
    ("strftime", "{{ strftime_now('%Y-%m-%d %H:%M:%S %d %B %b %A %a %j %y %I %p %e') }}", {}),
    ("joiner_cycler", "{% set j = joiner(',') %}{% for i in [1,2,3] %}{{ j() }}{{i}}{% endfor %}", {}),
    ("syntax_err", "{% if %}", {}),
    ("unknown_filter", "{{ 1|nope }}", {}),
    ("unknown_tag", "{% nope %}", {}),
    ("div_zero", "{{ 1 / 0 }}", {}),
    ("ns_private", "{% set ns = namespace(_x=1) %}", {}),
    ("sandbox", "{{ ''.__class__ }}", {}),
    (
        "nested_loop",
        "{% for a in [1,2] %}{% set o = loop %}{% for b in 'xy' %}{{o.index}}{{loop.index}}{{b}} {% endfor %}{% endfor %}",
        {},
    ),
    (
        "recursive_loop",
        "{% for n in t recursive %}{{n.v}}{% if n.c %}({{ loop(n.c) }}){% endif %}{% endfor %}",
        {"t": [{"v": 1, "c": [{"v": 2, "c": []}]}, {"v": 3, "c": []}]},
    ),
    ("deep_attr", "{{ m[0]['content'][0]['type'] == 'image' }}", {"m": [{"content": [{"type": "image"}]}]}),
    ("str_index_attr", "[{{ 'user'[0]['type'] }}]", {}),
    ("str_first_char", "{{ ('abc')[0] }}", {}),
    ("empty_list_item", "[{{ [][0] }}][{{ [][0]['x'] }}]", {}),
    ("is_not", "{{ 1 is not string }}{{ not 1 is string }}{{ x is not defined }}", {}),
    (
        "precedence",
        "{{ 1 + 2 * 3 ~ 'a' }}{{ not 1 == 2 }}{{ 2 * 3 | string }}{{ 1 if 0 else 2 ~ 'x' }}{{ 'a' ~ 'b' == 'ab' }}{{ 1 or 0 and 0 }}",
        {},
    ),
    ("prec_tilde_add", "{{ 'a' ~ 1 + 1 }}", {}),
    ("prec_neg_filter", "{{ -1 | abs }}", {}),
    ("prec_pow", "{{ 2 ** 3 ** 2 }}{{ -2 ** 2 }}", {}),
    ("prec_not_in", "{{ not 'a' in 'b' }}{{ 'x' ~ 'y' in 'xyz' }}", {}),
    ("prec_is", "{{ 1 + 1 is number }}{{ 'a' is string and 1 is number }}{{ (1 is string) == false }}", {}),
    ("int_str_keys", "{{ {'1': 'a'}['1'] }}{{ {1: 'b'}[1] }}{{ {'a': 1}.a }}", {}),
    ("line_statement_no", "# not a statement\n## neither\n", {}),
    ("big_int", "{{ 123456789012345678901234567890 + 1 }}", {}),
    ("unicode_ident", "{{ 'ÀÉ'|lower }}{{ 'straße'|upper }}{{ 'ǆ'|title }}", {}),
]
