"""Every way the gateway says no: one exception, one shape on the wire, one table of sentences.

Shape and codes are what LibreChat shows well and does not retry (measured: one call for 401, 402, 403, 413 and 429
without Retry-After; seven calls over two minutes for 5xx). A sentence is one line, at most MESSAGE_LENGTH_MAX
characters, without braces.
"""

from typing import Any, Final

import msgspec
from aiohttp import web

MESSAGE_LENGTH_MAX: Final = 200
"""Characters of a sentence: LibreChat shows up to 240 in line and cuts at 512."""


class Refusal(Exception):  # noqa: N818 (a refusal is an answer, not an error of ours)
    """The call ends here. `code` is a key of TABLE; `facts` fill its sentence."""

    def __init__(self, code: str, **facts: object) -> None:
        super().__init__(code)
        self.code = code
        self.facts = facts


class _Row(msgspec.Struct, frozen=True):
    status: int
    type: str
    pt: str
    en: str
    retry: bool = False
    """Whether a client may try the very same request again."""


TABLE: Final[dict[str, _Row]] = {
    # Who is calling
    "missing_api_key": _Row(
        401,
        "authentication_error",
        "Falta a chave: envie o cabeçalho Authorization: Bearer com a sua chave Sundial.",
        "No API key: send the header Authorization: Bearer with your Sundial key.",
    ),
    "invalid_api_key": _Row(
        401,
        "authentication_error",
        "Chave desconhecida ou revogada. Peça uma nova ao administrador.",
        "Unknown or revoked API key. Ask your administrator for a new one.",
    ),
    "too_many_guesses": _Row(
        429,
        "rate_limit_error",
        "Muitas chaves erradas vieram deste endereço. Aguarde um minuto e confira a sua chave.",
        "Too many wrong API keys came from this address. Wait a minute and check your key.",
    ),
    "missing_user": _Row(
        403,
        "permission_error",
        "Esta chave de serviço precisa do cabeçalho X-Sundial-User-Id com a identificação do usuário.",
        "This service key needs the header X-Sundial-User-Id with the id of the user.",
    ),
    "unresolved_user": _Row(
        403,
        "permission_error",
        "O cabeçalho X-Sundial-User-Id veio com um marcador não resolvido. Confira a configuração do LibreChat.",
        "The header X-Sundial-User-Id holds an unresolved placeholder. Check the configuration of LibreChat.",
    ),
    "invalid_user": _Row(
        403,
        "permission_error",
        "O cabeçalho X-Sundial-User-Id não é uma identificação válida: até 128 caracteres visíveis.",
        "The header X-Sundial-User-Id is not a valid id: up to 128 visible characters.",
    ),
    "user_mismatch": _Row(
        403,
        "permission_error",
        "O campo user do pedido difere do cabeçalho X-Sundial-User-Id.",
        "The field user of the request differs from the header X-Sundial-User-Id.",
    ),
    "account_blocked": _Row(
        403,
        "permission_error",
        "Sua conta está bloqueada. Fale com o administrador.",
        "Your account is blocked. Ask your administrator.",
    ),
    "unknown_account": _Row(
        403,
        "permission_error",
        "A conta desta chave ainda não está disponível. Tente de novo em instantes ou fale com o administrador.",
        "The account of this key is not available yet. Try again in a moment or ask your administrator.",
    ),
    # What is asked
    "unknown_path": _Row(
        404,
        "invalid_request_error",
        "Este endereço não é atendido pelo Sundial: {path}",
        "Sundial does not serve this address: {path}",
    ),
    "method_not_allowed": _Row(
        405, "invalid_request_error", "Este endereço só aceita {allowed}.", "This address accepts {allowed} only."
    ),
    "unsupported_version": _Row(
        400,
        "invalid_request_error",
        "Só HTTP/1.1 e HTTP/1.0 são aceitos.",
        "Only HTTP/1.1 and HTTP/1.0 are accepted.",
    ),
    "invalid_json": _Row(
        400,
        "invalid_request_error",
        "O corpo do pedido não é um objeto JSON válido em UTF-8.",
        "The body of the request is not a valid JSON object in UTF-8.",
    ),
    "invalid_field": _Row(
        400,
        "invalid_request_error",
        "O campo {field} do pedido não é válido: {reason}",
        "The field {field} of the request is not valid: {reason}",
    ),
    "invalid_multipart": _Row(
        400,
        "invalid_request_error",
        "O corpo do pedido não é um formulário multipart/form-data válido: {reason}",
        "The body of the request is not a valid multipart/form-data form: {reason}",
    ),
    "unknown_model": _Row(
        404,
        "invalid_request_error",
        "O modelo {model} não existe ou não está disponível para esta chave.",
        "The model {model} does not exist, or is not available to this key.",
    ),
    "unsupported_encoding": _Row(
        415,
        "invalid_request_error",
        "Corpos comprimidos não são aceitos: envie o pedido sem Content-Encoding.",
        "Compressed bodies are not accepted: send the request without Content-Encoding.",
    ),
    "body_too_large": _Row(
        413,
        "invalid_request_error",
        "O pedido passa do limite de {limit_mb} MB.",
        "The request is above the limit of {limit_mb} MB.",
    ),
    "body_timeout": _Row(
        408,
        "invalid_request_error",
        "O corpo do pedido não chegou inteiro em {limit_s} s.",
        "The body of the request did not arrive within {limit_s} s.",
    ),
    "head_timeout": _Row(
        408,
        "invalid_request_error",
        "O cabeçalho do pedido não chegou inteiro em {limit_s} s.",
        "The head of the request did not arrive within {limit_s} s.",
    ),
    "model_not_allowed": _Row(
        403,
        "permission_error",
        "O seu plano não inclui o modelo {model}.",
        "Your plan does not include the model {model}.",
    ),
    "model_not_priced": _Row(
        403,
        "permission_error",
        "O modelo {model} não tem preço aqui e por isso não pode ser usado. Fale com o administrador.",
        "The model {model} has no price here and cannot be used. Ask your administrator.",
    ),
    # What it would cost
    "credit_exhausted": _Row(
        402,
        "insufficient_credits",
        "Seu saldo não basta: restam {balance} créditos disponíveis.{link}",
        "Your credit does not suffice: {balance} credits left to spend.{link}",
    ),
    "credit_ended": _Row(
        402,
        "insufficient_credits",
        "[A resposta termina aqui: seu saldo de créditos acabou.{link}]",
        "[The answer ends here: your credit is used up.{link}]",
    ),
    # What fails behind us
    "not_ready": _Row(
        503,
        "service_unavailable",
        "O controle de créditos está indisponível no momento. Tente de novo em instantes.",
        "The credit control is unavailable at the moment. Try again in a moment.",
        retry=True,
    ),
    "overloaded": _Row(
        503,
        "service_unavailable",
        "Há conexões demais no momento. Tente de novo em instantes.",
        "There are too many connections at the moment. Try again in a moment.",
        retry=True,
    ),
    "upstream_unavailable": _Row(
        502,
        "upstream_error",
        "O provedor do modelo não pôde ser alcançado. Nada foi cobrado.",
        "The model provider could not be reached. Nothing was charged.",
        retry=True,
    ),
    "upstream_timeout": _Row(
        504,
        "upstream_error",
        "O provedor do modelo não respondeu a tempo.",
        "The model provider did not answer in time.",
        retry=True,
    ),
}


_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
"""Status → type of the error; any other is an `api_error`."""


class _Text(dict[str, Any]):
    """Facts made safe for a sentence: no braces, no line breaks, short."""

    def __init__(self, facts: dict[str, object]) -> None:
        super().__init__({name: _plain(str(value)) for name, value in facts.items()})


def _plain(text: str) -> str:
    text = "".join(c if c.isprintable() and c not in "{}" else "?" for c in text.encode("utf-8", "replace").decode())
    return text if len(text) <= 100 else text[:99] + "…"


def sentence(code: str, language: str, **facts: object) -> str:
    """The one line that a person reads."""
    row = TABLE[code]
    text = (row.pt if language == "pt-BR" else row.en).format_map(_Text(facts))
    return text if len(text) <= MESSAGE_LENGTH_MAX else text[: MESSAGE_LENGTH_MAX - 1] + "…"


def body(code: str, message: str) -> bytes:
    """The error object, as OpenAI's clients read it."""
    error = {"message": message, "type": TABLE[code].type, "code": code, "param": None}
    return msgspec.json.encode({"error": error})


def anthropic_body(code: str, message: str) -> bytes:
    """The error object, as Anthropic's clients read it; the code stands beside what they know."""
    kind = _ANTHROPIC_TYPES.get(TABLE[code].status, "api_error")
    error = {"type": kind, "message": message, "code": code}
    # Its SDKs show a message that stands at the top, and else the whole object.
    return msgspec.json.encode({"type": "error", "error": error, "message": message})


def response(refusal: Refusal, language: str, call_id: str = "", *, anthropic: bool = False) -> web.Response:
    """The refusal as an HTTP answer."""
    row = TABLE[refusal.code]
    headers = {} if row.retry else {"x-should-retry": "false"}
    if row.status == 405:
        headers["allow"] = str(refusal.facts["allowed"])
    if call_id:
        headers["x-sundial-call-id"] = call_id
    message = sentence(refusal.code, language, **refusal.facts)
    shape = anthropic_body if anthropic else body
    return web.Response(
        status=row.status, body=shape(refusal.code, message), content_type="application/json", headers=headers
    )
