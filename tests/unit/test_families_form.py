"""Forms as they pass: the fields that matter, the ends of the files, and all that two parsers could read apart."""

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import asks
from gateway.asks.clip import HEAD_BYTES, TAIL_BYTES
from gateway.asks.form import FIELDS_BYTES_MAX, PART_HEAD_BYTES_MAX, PARTS_MAX, SINGLE, Form, boundary_of
from gateway.families import FAMILIES
from gateway.refusals import Refusal
from tests.harness.calls import refused
from tests.harness.media import END, B, field, part

TRANSCRIPTION: Final = next(family for family in FAMILIES if family.path == "/audio/transcriptions")
EDITS: Final = next(family for family in FAMILIES if family.path == "/images/edits")
FILE: Final = part(
    'name="file"; filename="a b.wav"', b"RIFF\r\n--\r\n----x\r\n" + bytes(300), "Content-Type: audio/wav"
)


def read(body: bytes, size: int = 0) -> Form:
    """The form, fed in pieces of `size` bytes, or whole."""
    form = Form(B)
    for start in range(0, len(body), size or len(body) or 1):
        form.feed(body[start : start + (size or len(body))])
    form.finish()
    return form


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64])
def test_fields_and_files_are_the_same_however_the_bytes_are_cut(size: int) -> None:
    """Whole, one byte at a time, and in between; a file may hold line ends and what looks like a boundary."""
    body = field("model", "whisper-1") + FILE + field("language", "") + field("temperature", "0.5") + END
    form = read(body, size)
    assert form.fields == {"model": "whisper-1", "language": "", "temperature": "0.5"}
    assert [clip.size for clip in form.files] == [len(b"RIFF\r\n--\r\n----x\r\n") + 300]
    assert form.files[0].head.startswith(b"RIFF\r\n--\r\n----x\r\n")


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b_c", "d[]", "model"]), st.text(max_size=20)), max_size=5),
    st.binary(max_size=200),
    st.lists(st.integers(1, 40), max_size=30),
)
def test_any_form_is_read_as_it_was_written(fields: list[tuple[str, str]], content: bytes, cuts: list[int]) -> None:
    """Fields of any text and a file of any bytes, cut anywhere; a field that stands twice keeps its last value, but for
    those that matter."""
    if b"\r\n--" + B in b"\r\n" + content or sum(name == "model" for name, _ in fields) > 1:
        return
    clean = [(name, value) for name, value in fields if "\r\n--" not in value]
    body = b"".join(field(name, value) for name, value in clean)
    body += part('name="file"; filename="x"', content) + END
    form, rest = Form(B), body
    for cut in cuts:
        form.feed(rest[:cut])
        rest = rest[cut:]
    form.feed(rest)
    form.finish()
    assert form.fields == dict(clean)
    assert (form.files[0].size, form.files[0].head) == (len(content), content)


def test_a_field_is_known_as_soon_as_it_is_whole() -> None:
    """The name of the model, before the file behind it has come."""
    form = Form(B)
    body = field("model", "whisper-1") + FILE
    for at in range(body.index(b"whisper-1") + len(b"whisper-1\r\n") + len(B)):
        form.feed(body[at : at + 1])
        assert "model" not in form.fields
    form.feed(body[at + 1 :])
    assert form.fields == {"model": "whisper-1"}
    assert not form.complete


@pytest.mark.parametrize("size", [0, 1, 5])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"--",
        END[:-3],
        field("a", "b"),
        field("a", "b") + END[:-3],
        b"preamble\r\n" + field("a", "b") + END,
        b"\r\n" + field("a", "b") + END,
        field("a", "b") + END + b"epilogue",
        field("a", "b") + END + b"\r\n",
        field("a", "b") + END + field("a", "b") + END,
        (field("a", "b") + END).replace(b"\r\n", b"\n"),
        field("a", "b").replace(b"\r\n", b" \r\n", 1) + END,
        b"--" + B + b"x\r\n" + field("a", "b") + END,
        b"--" + B + b"\r\n\r\nno headers\r\n" + END,
        part("x", b"") + END,
        part("name=model", b"x") + END,
        part("name='model'", b"x") + END,
        part('name*="model"', b"x") + END,
        part("name*=utf-8''model", b"x") + END,
        part('name="mod%65l"', b"x") + END,
        part('name="mo\\del"', b"x") + END,
        part('name="model" ', b"x") + part('name="a"; name="model"', b"y") + END,
        part('filename="x"; name="model"', b"x") + END,
        part('name="a"', b"x", 'Content-Disposition: form-data; name="model"') + END,
        part('name="a"', b"x", "Content-Transfer-Encoding: base64") + END,
        part('name="a"', b"x", " folded: line") + END,
        part('name="a"', b"x", "no colon") + END,
        part('name="a"', b"x", "bare\nline: end") + END,
        part('name="a"', b"x", "space : before the colon") + END,
        part('name="a"', b"x", "x: " + "y" * PART_HEAD_BYTES_MAX) + END,
        b"".join(field(f"a{number}", "b") for number in range(PARTS_MAX + 1)) + END,
        field("a", "x" * (FIELDS_BYTES_MAX + 1)) + END,
    ],
)
def test_what_parsers_read_differently_is_refused(body: bytes, size: int) -> None:
    """However it is cut: bytes before, between and behind the parts, other line ends, doubtful headers, excesses."""
    if len(body) > 10_000 and size:
        return
    with refused("invalid_multipart"):
        read(body, size)


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_a_field_that_matters_stands_there_once_and_plainly(name: str) -> None:
    """Twice, as a list, as an element, as a file: which one counts differs between parsers."""
    for body in (
        field(name, "a") + field(name, "b"),
        field(name, "a") + FILE + field(f"{name}[]", "b"),
        field(f"{name}[]", "a"),
        field(f"{name}[0]", "a"),
        part(f'name="{name}"; filename="x"', b"a"),
        part(f"name=\"{name}\"; filename*=utf-8''x", b"a"),
    ):
        with pytest.raises(Refusal) as caught:
            read(body + END)
        assert (caught.value.code, caught.value.facts["field"]) == ("invalid_field", name)


@pytest.mark.parametrize("name", ["extra_body", "fallbacks", "fallbacks[]", "extra_body[model]"])
def test_a_form_steers_no_proxy_either(name: str) -> None:
    """Before the file or behind it, as a text or as a file."""
    for body in (field(name, "x") + FILE, FILE + field(name, "x"), part(f'name="{name}"; filename="x"', b"x")):
        with pytest.raises(Refusal) as caught:
            read(field("model", "whisper-1") + body + END)
        assert caught.value.facts["field"] == name.partition("[")[0]


def test_a_field_that_is_no_text_is_named() -> None:
    """Values are UTF-8."""
    with pytest.raises(Refusal) as caught:
        read(part('name="model"', b"\xff") + END)
    assert (caught.value.code, caught.value.facts["field"]) == ("invalid_field", "model")


def test_what_common_clients_send_passes() -> None:
    """Quotes in file names, names beyond ASCII, a final semicolon, an epilogue of one line end or none, plain
    encodings."""
    for what in (
        'name="file"; filename="a\\"b.wav"',
        'name="file"; filename="a%22b.wav"',
        'name="image[]"; filename=""',
        'name="file"; filename="Zo\xeb.wav"; filename*=UTF-8\'\'Zo%C3%AB.wav',
        'name="file";filename="a;b.wav"',
        'name="file"; filename="a.wav";',
    ):
        form = read(field("model", "m") + part(what, b"abc", "content-transfer-encoding: binary") + END)
        assert [clip.head for clip in form.files] == [b"abc"], what
    assert read(field("model", "m") + END.removesuffix(b"\r\n")).complete


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data;boundary="a b"', b"a b"),
        (
            "multipart/form-data;  boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW ",
            b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
    ],
)
def test_the_boundary_is_read_as_it_is_written(header: str, boundary: bytes) -> None:
    """Quoted or not."""
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    "header",
    [
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="a',
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; charset=utf-16; boundary=a",
        "multipart/form-data; boundary=a,multipart/form-data; boundary=b",
        "multipart/mixed; boundary=a",
        "multipart/form-data; boundary=" + "a" * 71,
    ],
)
def test_a_doubtful_boundary_is_refused(header: str) -> None:
    """None, two, or another type of body: parsers would find other parts."""
    with refused("invalid_multipart"):
        boundary_of(header)


def test_of_a_large_file_only_the_ends_are_kept() -> None:
    """Memory does not grow with the file."""
    form = Form(B)
    form.feed(part('name="file"; filename="x"', b"")[: -len(b"\r\n")])
    for number in range(40):
        form.feed(bytes([number]) * 50_000)
    form.feed(b"\r\n" + END)
    [clip] = form.files
    assert clip.size == 40 * 50_000
    assert (len(clip.head), len(clip.tail)) == (HEAD_BYTES, TAIL_BYTES)
    assert clip.tail.endswith(bytes([39]) * 50_000)


def test_fields_are_read_as_a_json_body_would_be() -> None:
    """Numbers and truth values are texts in a form; what is none of either is named."""
    body = field("model", "gpt-image-1") + field("n", "3") + field("stream", "false") + field("size", "1024x1024")
    files = part('name="image[]"; filename="a"', b"1") + part('name="image[]"; filename="b"', b"2")
    ask = asks.read(EDITS, read(body + files + END).request())
    assert (ask.choices, ask.stream, ask.size, ask.images_in) == (3, False, "1024x1024", 2)
    assert asks.read(TRANSCRIPTION, read(field("model", "m") + field("stream", "True") + END).request()).stream
    wrong: Any
    for wrong in (field("n", "0"), field("n", "11"), field("n", "x"), field("n", "٣"), field("stream", "yes")):
        with refused("invalid_field"):
            asks.read(EDITS, read(field("model", "m") + wrong + END).request())
