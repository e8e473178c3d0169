"""The table of endpoint families: which requests belong to which, and which to none."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.families import BASE_PATH, FAMILIES, Family, UndeclaredError, find, forwarded

PLAIN: Final = [family for family in FAMILIES if "{" not in family.path]


def allowed(method: str, target: str, listed: tuple[Family, ...] = ()) -> tuple[str, ...]:
    """The methods that the refusal of this request names."""
    with pytest.raises(UndeclaredError) as caught:
        find(method, target, listed)
    return caught.value.allowed


def test_each_declared_path_is_its_family_with_any_query() -> None:
    """As it is spelt in the table, below the base."""
    for family in PLAIN:
        assert find(family.method, BASE_PATH + family.path) is family
        assert find(family.method, f"{BASE_PATH}{family.path}?model=x&a=b?c") is family


def test_names_and_paths_stand_there_once() -> None:
    """One treatment for each path; names repeat only for paths that are counted alike."""
    assert len({family.path for family in FAMILIES}) == len(FAMILIES)
    for name in {family.name for family in FAMILIES}:
        assert len({(family.treatment, family.sold) for family in FAMILIES if family.name == name}) == 1


def test_only_what_costs_nothing_is_unmetered() -> None:
    """Lists of models and counts of tokens; moderation is booked; all else is metered."""
    unmetered = {family.path for family in FAMILIES if family.treatment != "metered"}
    assert unmetered == {"/models", "/models/{id}", "/messages/count_tokens", "/moderations"}


@pytest.mark.parametrize("family", PLAIN, ids=lambda family: family.path)
def test_another_spelling_is_an_unknown_path(family: Family) -> None:
    """Encoded, doubled, dotted, longer, in another case, absolute, without the base."""
    path = BASE_PATH + family.path
    letter = path[5]
    spellings = (
        path + "/",
        path + "//",
        path + ".",
        path + "%20",
        path + ";x",
        path + "#x",
        path.replace("/v1/", "/v1//"),
        path.replace("/v1/", "//v1/"),
        path.replace("/v1/", "/v1/./"),
        path.replace("/v1/", "/v1/x/../"),
        path.replace("/v1/", "/v1%2f"),
        path.replace(letter, f"%{ord(letter):02x}", 1),
        path.upper(),
        path.title(),
        family.path,
        "http://127.0.0.1" + path,
        "/v1" + path,
        " " + path,
    )
    for spelling in spellings:
        if family.path == "/models" and spelling.startswith(path + "/") and spelling != path + "/":
            continue  # a model of that name
        assert allowed(family.method, spelling) == (), spelling


def test_another_method_is_told_which_one_is_taken() -> None:
    """GET, PUT, a method in lower case: the path is known, the method is not."""
    for family in PLAIN:
        for method in ("PUT", "DELETE", "HEAD", "OPTIONS", family.method.lower()):
            assert allowed(method, BASE_PATH + family.path) == (family.method,)


def test_one_model_is_looked_up_by_whatever_stands_behind_the_list() -> None:
    """Names have slashes and escapes in them; the path goes nowhere but into a look-up."""
    for name in ("gpt-4o", "openai/gpt-4o", "openai%2Fgpt-4o", "../chat/completions"):
        assert find("GET", f"/v1/models/{name}").path == "/models/{id}"
    assert allowed("GET", "/v1/models/") == ()
    assert allowed("DELETE", "/v1/models/ft:gpt-4o") == ("GET",)


def test_what_is_listed_is_forwarded_by_its_method_and_path() -> None:
    """With or without a method, to one path or to a whole subtree of plain segments."""
    listed = forwarded("GET /files, /vector_stores/* ,POST /batches")
    for method, target in (
        ("GET", "/v1/files"),
        ("GET", "/v1/files?limit=1"),
        ("DELETE", "/v1/vector_stores/vs_1"),
        ("POST", "/v1/vector_stores/vs_1/files"),
        ("POST", "/v1/batches"),
    ):
        assert find(method, target, listed).treatment == "forwarded"
    assert allowed("POST", "/v1/files", listed) == ("GET",)
    assert "HEAD" not in allowed("HEAD", "/v1/vector_stores/x", listed)
    for target in (
        "/v1/files/",
        "/v1/files/x",
        "/files",
        "/v1/vector_stores",
        "/v1/vector_stores/",
        "/v1/vector_stores/a//b",
        "/v1/vector_stores/a/",
        "/v1/vector_stores/..",
        "/v1/vector_stores/../chat/completions",
        "/v1/vector_stores/.%2e/chat/completions",
        "/v1/vector_stores/%2e%2e/chat/completions",
        "/v1/vector_stores/a%2fb",
    ):
        assert allowed("GET", target, listed) == (), target


@pytest.mark.parametrize(
    "mistake",
    [
        "/*",
        "files",
        "/files/",
        "//files",
        "/files/**",
        "/f*",
        "/../files",
        "/files?x=1",
        "/fi%6ces",
        "get /files",
        "HEAD /files",
        "GET  /files",
        "/chat/*",
        "/chat/completions",
        "POST /responses",
        "GET /chat/completions",
        "/messages/*",
        "/images/*",
        "/audio/*",
        "/models/*",
        "/models/x",
        "/files, /audio/speech",
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(mistake: str) -> None:
    """Everything, another spelling, a path that is declared already: a typing error must not open a way."""
    with pytest.raises(ValueError, match=r"is no path to forward|is a declared endpoint"):
        forwarded(mistake)


def test_an_empty_list_forwards_nothing() -> None:
    """The default."""
    assert forwarded("") == forwarded(" , ") == ()


@given(st.text(st.sampled_from("/.%2efvmodlschatp?#;*\\ A1"), max_size=30), st.sampled_from(["GET", "POST"]))
def test_whatever_is_asked_a_declared_path_is_never_forwarded(tail: str, method: str) -> None:
    """With the widest lists that are allowed, any target is a declared family's, or plain below what is listed."""
    listed = forwarded("/files/*, /vector_stores/*, /chat-other")
    target = "/v1/" + tail
    try:
        family = find(method, target, listed)
    except UndeclaredError:
        return
    path = target.partition("?")[0]
    if family.treatment == "forwarded":
        assert not {"%", "\\", ";", "#", " "} & set(path)
        assert not {"", ".", ".."} & set(path.removeprefix("/").split("/"))
        assert path.startswith(("/v1/files/", "/v1/vector_stores/", "/v1/chat-other"))
    else:
        assert path == BASE_PATH + family.path or family.path == "/models/{id}"
