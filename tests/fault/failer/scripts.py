"""The 40 requests of T47 and T48, as data: what a client sends, and whether it leaves early. All are answered the same way each time."""
import base64
import io
import json

from PIL import Image

POST = "/v1/chat/completions"


def picture(form, size=(40, 30), mode="RGB", cut=None):
    out = io.BytesIO()
    image = Image.new("RGB", size, "white")
    image.paste((220, 30, 30), (5, 5, size[0] // 2, size[1] // 2))
    image.convert(mode).save(out, form)
    return f"data:image/{form.lower()};base64," + base64.b64encode(out.getvalue()[:cut]).decode()


def user(text, *urls, **image):
    content = [{"type": "image_url", "image_url": {"url": u, **image}} for u in urls] + [{"type": "text", "text": text}]
    return [{"role": "user", "content": content if urls else text}]


def chat(messages=None, **fields):
    return json.dumps({"model": "demo", "messages": messages or user("Hi"), "max_tokens": 3, "temperature": 0, "ignore_eos": True, **fields}).encode()


def wire(body=None, method="POST", path=POST, key="KEY", fields=()):
    """KEY is replaced by the server's key."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *fields]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if body is not None:
        lines += ["Content-Type: application/json"]
        if not any(f.lower().startswith("transfer-encoding") for f in fields):
            lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def chunked(body, size):
    return b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + size]), body[i:i + size]) for i in range(0, len(body), size)) + b"0\r\n\r\n"


PNG = picture("PNG")
LONG_TALK = [{"role": "system", "content": "Be brief."}] + [m for i in range(6) for m in (
    {"role": "user", "content": f"Question {i}"}, {"role": "assistant", "content": f"Answer {i}"})] + user("And now?")
SEEDED = {"temperature": 1.0, "seed": 7}

SCRIPTS = {
    "text": wire(chat()),
    "text_stream": wire(chat(stream=True)),
    "text_stream_usage": wire(chat(stream=True, stream_options={"include_usage": True})),
    "two_choices": wire(chat(n=2, **SEEDED)),
    "two_choices_stream": wire(chat(n=2, stream=True, **SEEDED)),
    "eight_choices": wire(chat(n=8, **SEEDED)),
    "logprobs": wire(chat(logprobs=True)),
    "top_logprobs": wire(chat(logprobs=True, top_logprobs=20)),
    "logprobs_stream": wire(chat(logprobs=True, top_logprobs=5, stream=True)),
    "stop_string": wire(chat(stop=["a", "e", "the"], max_tokens=6)),
    "stop_string_stream": wire(chat(stop="zzzz", stream=True)),
    "seed": wire(chat(**SEEDED)),
    "all_sampling": wire(chat(temperature=0.7, seed=3, top_p=0.9, top_k=20, min_p=0.01, frequency_penalty=0.5, presence_penalty=0.5)),
    "logit_bias": wire(chat(logit_bias={"5": 10, "6": -10, "7": 1.5})),
    "system": wire(chat([{"role": "system", "content": "Answer in one word."}, *user("Hi")])),
    "long_talk": wire(chat(LONG_TALK)),
    "long_text": wire(chat(user("A longer text, with many words. " * 15))),
    "special_tokens": wire(chat(user("<|im_start|>system <image> <end_of_utterance>"))),
    "not_ascii": wire(chat(user("Grüße, Привет, 你好, 🎉 \u0000"))),
    "parts": wire(chat([{"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]}])),
    "chunked_body": wire(chunked(chat(), 40), fields=["Transfer-Encoding: chunked"]),
    "many_headers": wire(chat(), fields=[f"X-Field-{i}: {'v' * 100}" for i in range(40)]),
    "png": wire(chat(user("What is it?", PNG))),
    "jpeg": wire(chat(user("What is it?", picture("JPEG")))),
    "gif": wire(chat(user("What is it?", picture("GIF", mode="P")))),
    "webp": wire(chat(user("What is it?", picture("WEBP")))),
    "png_stream": wire(chat(user("What is it?", PNG), stream=True)),
    "low_detail": wire(chat(user("What is it?", picture("PNG", (300, 200)), detail="low"))),
    "two_pictures": wire(chat(user("Which?", PNG, picture("JPEG", (30, 40))), max_tokens=2)),
    "broken_picture": wire(chat(user("What is it?", picture("PNG", (200, 100), cut=200)))),
    "no_picture": wire(chat(user("What is it?", "data:image/png;base64,AAAA"))),
    "bad_json": wire(b'{"model": "demo", "messages": [}'),
    "bad_field": wire(chat(temperature="hot")),
    "no_such_model": wire(chat(model="gpt-9")),
    "wrong_key": wire(chat(), key="sk-wrong-key-000000000000000"),
    "no_key": wire(chat(), key=None),
    "too_large": wire(fields=["Content-Length: 99999999"]),
    "models": wire(method="GET", path="/v1/models"),
    "one_model": wire(method="GET", path="/v1/models/demo"),
    "ready": wire(method="GET", path="/readyz", key=None),
    "no_such_path": wire(method="GET", path="/v2/nothing"),
    "wrong_method": wire(method="DELETE", path=POST),
    "smuggled": wire(chat(), fields=["Transfer-Encoding: gzip"]),
    "leaves_in_stream": wire(chat(stream=True, max_tokens=200)),
    "leaves_at_once": wire(chat(user("What is it?", PNG), max_tokens=200)),
}
LEAVE_AFTER = {"leaves_in_stream": 700, "leaves_at_once": 0}
PICTURES = ["png", "jpeg", "gif", "webp", "png_stream", "low_detail", "two_pictures", "broken_picture", "no_picture", "leaves_at_once"]
WITHOUT_WORKER = ["broken_picture", "no_picture", "bad_json", "bad_field", "no_such_model", "wrong_key", "no_key", "too_large", "models", "one_model", "ready",
                  "no_such_path", "wrong_method", "smuggled"]
