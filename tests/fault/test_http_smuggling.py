"""T13: requests that two HTTP parsers could read differently are refused, and the connection is closed, so that what follows is never parsed as a
request. Each case ends with a hidden `GET /v1/models`; only one answer may come."""
import pytest
from http_raw import chunk, exchange, head
from serving import DEMO, Server

HIDDEN = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED_HIDDEN = b"0\r\n\r\n" + HIDDEN
LENGTH = f"Content-Length: {len(CHUNKED_HIDDEN)}"


def post(*fields, body=CHUNKED_HIDDEN, end="\r\n"):
    return (POST + "".join(f + end for f in fields) + end).encode("latin-1") + body


TE = "Transfer-Encoding: chunked"
REFUSED = {
    # two ways to tell the body's length
    "cl_and_te": post(LENGTH, TE),
    "te_and_cl": post(TE, LENGTH),
    "cl_0_and_te": post("Content-Length: 0", TE),
    "cl_te_lower_case": post(LENGTH.lower(), TE.lower()),
    "two_cl_equal": post("Content-Length: 2", "Content-Length: 2", body=b"{}" + HIDDEN),
    "two_cl_differ": post("Content-Length: 2", "Content-Length: 40", body=b"{}" + HIDDEN),
    "two_cl_differ_swapped": post("Content-Length: 40", "Content-Length: 2", body=b"{}" + HIDDEN),
    "two_cl_case": post("Content-Length: 2", "content-length: 40", body=b"{}" + HIDDEN),
    "cl_list_equal": post("Content-Length: 2, 2", body=b"{}" + HIDDEN),
    "cl_list_differ": post("Content-Length: 2, 40", body=b"{}" + HIDDEN),
    "two_te": post(TE, TE),
    "te_chunked_then_identity": post(TE, "Transfer-Encoding: identity"),
    # lengths that are no number
    "cl_plus": post("Content-Length: +2", body=b"{}" + HIDDEN),
    "cl_minus": post("Content-Length: -2", body=b"{}" + HIDDEN),
    "cl_minus_zero": post("Content-Length: -0", body=HIDDEN),
    "cl_hex": post("Content-Length: 0x2", body=b"{}" + HIDDEN),
    "cl_empty": post("Content-Length:", body=HIDDEN),
    "cl_inner_space": post("Content-Length: 2 2", body=b"{}" + HIDDEN),
    "cl_fraction": post("Content-Length: 2.0", body=b"{}" + HIDDEN),
    "cl_exponent": post("Content-Length: 2e0", body=b"{}" + HIDDEN),
    "cl_quoted": post('Content-Length: "2"', body=b"{}" + HIDDEN),
    "cl_trailing_letter": post("Content-Length: 2a", body=b"{}" + HIDDEN),
    "cl_2_to_64_plus_2": post("Content-Length: 18446744073709551618", body=b"{}" + HIDDEN),
    "cl_2_to_63": post("Content-Length: 9223372036854775808", body=b"{}" + HIDDEN),
    "cl_100_digits": post("Content-Length: " + "9" * 100, body=b"{}" + HIDDEN),
    "cl_vertical_tab": post("Content-Length: \x0b2", body=b"{}" + HIDDEN),
    # codings
    "te_xchunked": post("Transfer-Encoding: xchunked"),
    "te_identity": post("Transfer-Encoding: identity"),
    "te_gzip_chunked": post("Transfer-Encoding: gzip, chunked"),
    "te_chunked_gzip": post("Transfer-Encoding: chunked, gzip"),
    "te_chunked_chunked": post("Transfer-Encoding: chunked, chunked"),
    "te_chunked_parameter": post("Transfer-Encoding: chunked;a=b"),
    "te_quoted": post('Transfer-Encoding: "chunked"'),
    "te_empty": post("Transfer-Encoding:"),
    "te_comma": post("Transfer-Encoding: ,chunked"),
    "te_vertical_tab": post("Transfer-Encoding: \x0bchunked"),
    "te_form_feed": post("Transfer-Encoding: chunked\x0c"),
    "te_nbsp": post("Transfer-Encoding: \xa0chunked"),
    "te_old_version": post(TE).replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n", 1),
    # fields and their lines
    "space_before_colon_cl": post("Content-Length : 2", body=b"{}" + HIDDEN),
    "space_before_colon_te": post("Transfer-Encoding : chunked"),
    "tab_before_colon_te": post("Transfer-Encoding\t: chunked"),
    "space_before_name": post("A: b", " Transfer-Encoding: chunked"),
    "fold_te": post("Transfer-Encoding:\r\n chunked"),
    "fold_cl": post("Content-Length:\r\n\t2", body=b"{}" + HIDDEN),
    "fold_first_line": (POST[:-2].replace("\r\nHost", "\r\n Host") + "\r\n\r\n").encode() + HIDDEN,
    "bare_lf_fields": post(TE, end="\n"),
    "bare_lf_one_field": post("A: b\n" + TE),
    "bare_lf_end": (POST + TE).encode() + b"\n\n" + CHUNKED_HIDDEN,
    "bare_cr_in_field": post("A: b\r" + TE),
    "cr_cr_lf": post("A: b\r", TE),
    "nul_in_value": post("A: b\0c", LENGTH),
    "nul_in_name": post("A\0: b", LENGTH),
    "nul_after_te": post("Transfer-Encoding: chunked\0"),
    "delete_in_value": post("A: b\x7fc", LENGTH),
    "no_colon": post("garbage", LENGTH),
    "empty_name": post(": x", LENGTH),
    "bracket_in_name": post("A[b]: c", LENGTH),
    "non_ascii_name": post("\xe4: c", LENGTH),
    # hosts
    "no_host": b"GET /v1/models HTTP/1.1\r\n\r\n" + HIDDEN,
    "two_hosts": head(fields=["Host: localhost"]) + HIDDEN,
    "two_hosts_differ": head(fields=["Host: evil.test"]) + HIDDEN,
    "host_empty": head(host="") + HIDDEN,
    "host_list": head(host="localhost, evil.test") + HIDDEN,
    "host_with_path": head(host="localhost/v1") + HIDDEN,
    "host_with_user": head(host="localhost@evil.test") + HIDDEN,
    "host_with_space": head(host="local host") + HIDDEN,
    "absolute_other_host": head(path="http://evil.test/v1/models") + HIDDEN,
    "absolute_no_path": head(path="http://localhost") + HIDDEN,
    "absolute_other_scheme": head(path="ftp://localhost/v1/models") + HIDDEN,
    "authority_form": head(path="localhost:80") + HIDDEN,
    # request lines
    "http_0_9": b"GET /v1/models\r\n\r\n" + HIDDEN,
    "version_lower_case": head(version="http/1.1") + HIDDEN,
    "version_2_digits": head(version="HTTP/1.10") + HIDDEN,
    "version_1_2_3": head(version="HTTP/1.1.1") + HIDDEN,
    "version_2": head(version="HTTP/2.0") + HIDDEN,
    "version_missing_number": head(version="HTTP/") + HIDDEN,
    "preface_of_http_2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "two_spaces": b"GET  /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "tab_between": b"GET\t/v1/models\tHTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "leading_space": b" GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN,
    "trailing_space": head(version="HTTP/1.1 ") + HIDDEN,
    "space_in_url": head(path="/v1/models x") + HIDDEN,
    "nul_in_url": head(path="/v1/mo\0dels") + HIDDEN,
    "method_with_colon": head(method="GE:T") + HIDDEN,
    "request_line_lf": b"GET /v1/models HTTP/1.1\nHost: localhost\r\n\r\n" + HIDDEN,
    "tls_hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x11" * 200 + b"\r\n\r\n" + HIDDEN,
    # chunks
    "chunk_size_minus": post(TE, body=b"-1\r\n\r\n" + HIDDEN),
    "chunk_size_plus": post(TE, body=b"+2\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_size_0x": post(TE, body=b"0x2\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_size_space_before": post(TE, body=b" 2\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_size_space_after": post(TE, body=b"2 \r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_size_empty": post(TE, body=b"\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_size_letter": post(TE, body=b"g\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_size_2_to_64_plus_2": post(TE, body=b"10000000000000002\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_size_16_digits": post(TE, body=b"ffffffffffffffff\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_size_many_zeros": post(TE, body=b"0" * 4096 + b"2\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_size_lf": post(TE, body=b"2\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_data_lf": post(TE, body=b"2\r\n{}\n0\r\n\r\n" + HIDDEN),
    "chunk_data_longer": post(TE, body=b"2\r\n{}x\r\n0\r\n\r\n" + HIDDEN),
    "chunk_extension_lf": post(TE, body=b"2;a\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_extension_cr": post(TE, body=b"2;a\rb\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_extension_nul": post(TE, body=b"2;a\0\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_extension_64_kb": post(TE, body=b"2;" + b"a" * 65536 + b"\r\n{}\r\n0\r\n\r\n" + HIDDEN),
    "chunk_last_lf": post(TE, body=b"0\n\n" + HIDDEN),
    "chunk_trailer_lf": post(TE, body=b"0\r\nA: b\n\r\n" + HIDDEN),
    "chunk_trailers_64_kb": post(TE, body=b"0\r\n" + b"A: b\r\n" * 11000 + b"\r\n" + HIDDEN),
    "chunk_trailer_folded": post(TE, body=b"0\r\nA: b\r\n c\r\n\r\n" + HIDDEN),
}

BODY = b'{"model":"demo"}'
TWO = {  # what is allowed, twice: shows that a second request would be seen, and that strictness is not refusal of everything
    "get": head(),
    "leading_crlf": b"\r\n" + head(),
    "absolute_same_host": head(path="http://localhost/v1/models"),
    "cl_0": head(fields=["Content-Length: 0"]),
    "cl": post(f"Content-Length: {len(BODY)}", body=BODY),
    "cl_blanks_around": post(f"Content-Length: \t{len(BODY)} \t", body=BODY),
    "cl_leading_zeros": post(f"Content-Length: 00{len(BODY)}", body=BODY),
    "te": post(TE, body=chunk(BODY) + b"0\r\n\r\n"),
    "te_upper_case": post("TRANSFER-ENCODING: Chunked", body=chunk(BODY) + b"0\r\n\r\n"),
    "te_no_space": post("Transfer-Encoding:chunked", body=chunk(BODY) + b"0\r\n\r\n"),
    "chunk_hex_upper": post(TE, body=b"0A\r\n" + BODY[:10] + b"\r\n" + chunk(BODY[10:]) + b"0\r\n\r\n"),
    "chunk_extension": post(TE, body=chunk(BODY, b';a=b;c="d"') + b"0;x\r\n\r\n"),
    "trailers": post(TE, body=chunk(BODY) + b"0\r\nA: b\r\n\r\n"),
}


@pytest.fixture(scope="module")
def server():
    s = Server(DEMO, "--no-auth", "--name", "demo")
    yield s
    assert s.stop() == 0, "".join(s.lines)


def test_t13_corpus_is_as_large_as_stated():
    assert len(REFUSED) >= 60


@pytest.mark.parametrize("name", REFUSED)
def test_t13_refused_and_closed(server, name):
    answer = exchange(server.port, REFUSED[name], within_s=2)
    assert answer.closed, answer
    assert len(answer.statuses) == 1 and answer.status in (400, 421, 431, 501, 505), answer
    assert b'"object":"list"' not in answer.raw, answer


@pytest.mark.parametrize("name", TWO)
def test_t13_allowed_forms_are_answered(server, name):
    answer = exchange(server.port, TWO[name] + HIDDEN[:-2] + b"Connection: close\r\n\r\n")
    assert len(answer.statuses) == 2 and answer.statuses[1] == 200, answer
    assert answer.status == 200 or b'"param":"messages"' in answer.raw, answer


def test_t13_garbage_after_a_request_is_refused(server):
    answer = exchange(server.port, head() + b"\0\x01garbage\r\n\r\n" + HIDDEN)
    assert answer.statuses == [200, 400] and answer.closed, answer


def test_t13_body_of_a_refused_request_is_not_parsed(server):
    """A refusal before the body: its bytes must be skipped or the connection closed, never read as a request."""
    for method, path in (("POST", "/v1/nothing"), ("PUT", "/v1/models")):
        answer = exchange(server.port, head(method, path, [f"Content-Length: {len(HIDDEN)}"]) + HIDDEN, quiet_s=0.3)
        assert len(answer.statuses) == 1 and answer.status in (404, 405), answer


def test_t13_server_goes_on(server):
    assert exchange(server.port, head(fields=["Connection: close"])).status == 200
