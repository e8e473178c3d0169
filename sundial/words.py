"""The words of statements, balances and receipts, in the two languages that people read them in."""

from datetime import datetime
from decimal import Context, Decimal
from typing import Final

from shared.units import format_credits, format_usd

LANGUAGES: Final = ("pt-BR", "en")

WORDS: Final[dict[str, dict[str, str]]] = {
    "pt-BR": {
        "statement": "Extrato",
        "account": "Conta",
        "month": "Mês",
        "opening": "Saldo inicial",
        "grants": "Concessões",
        "purchases": "Recargas",
        "usage": "Consumo",
        "adjustments": "Ajustes",
        "expiry": "Expiração",
        "closing": "Saldo final",
        "credits": "créditos",
        "when": "Quando",
        "what": "Lançamento",
        "details": "Detalhes",
        "tokens": "Tokens (entrada → saída)",
        "amount": "Valor",
        "balance": "Saldo",
        "kind.usage": "consumo",
        "kind.grant": "concessão",
        "kind.purchase": "recarga",
        "kind.expiry": "expiração",
        "kind.adjustment": "ajuste",
        "kind.refund": "estorno",
        "kind.move": "transferência",
        "evidence": "Como o consumo foi contado",
        "evidence.provider": "informado pelo provedor",
        "evidence.recounted": "recontado por nós (estimado)",
        "evidence.checkpoint": "até o último registro (estimado)",
        "evidence.none": "sem resposta, sem custo",
        "estimated": "estimado",
        "calls": "chamadas",
        "cost": "Custo no provedor",
        "no_entries": "Nenhum lançamento neste mês.",
        "cut": "Mostrados os últimos {shown} de {total} lançamentos; --limit 0 mostra todos.",
        "closes": "saldo inicial + concessões + recargas − consumo ± ajustes − expiração = saldo final",
        "spendable": "Saldo disponível",
        "ledger_balance": "Saldo contábil",
        "held": "Reservado em chamadas abertas",
        "unposted": "Consumo ainda não lançado",
        "floor": "Limite mínimo do saldo",
        "plan": "Plano",
        "status": "Situação",
        "status.active": "ativa",
        "status.blocked": "bloqueada",
        "mode": "Modo",
        "grants_open": "Concessões",
        "granted": "Concedido",
        "remaining": "Restante",
        "expires": "Expira",
        "never": "nunca",
        "kind": "Tipo",
        "kind.allowance": "franquia do plano",
        "orders_queued": "Ordens que aguardam o medidor",
        "not_projected": "O Redis ainda não conhece esta conta; o medidor a levará para lá.",
        "receipt": "Recibo",
        "model": "Modelo",
        "prices": "Versão de preços",
        "provisional": "provisório, até que o modelo tenha preço",
        "card": "Tabela de tarifas",
        "outcome": "Fim da chamada",
        "outcome.complete": "completa",
        "outcome.client_gone": "interrompida pelo usuário",
        "outcome.upstream_error": "erro do provedor",
        "outcome.timeout": "tempo esgotado",
        "outcome.drained": "interrompida por manutenção",
        "outcome.exhausted": "créditos esgotados",
        "outcome.lost": "perdida",
        "hold": "Reserva ao liquidar",
        "units": "Unidades",
        "rate": "Créditos por milhão",
        "cost_rate": "US$ por milhão",
        "total": "Total",
        "total_first": "Lançado primeiro",
        "corrected": "Total corrigido",
        "corrects": "corrige {event_id}",
        "late_record": "o registro verdadeiro da chamada chegou depois",
        "booked_first": "Lançada primeiro como",
        "differs": "O preço recalculado é {amount}: rode `sundial audit`.",
        "paid_by": "Pago por",
        "uncovered": "excedente, sem concessão",
    },
    "en": {
        "statement": "Statement",
        "account": "Account",
        "month": "Month",
        "opening": "Opening balance",
        "grants": "Grants",
        "purchases": "Purchases",
        "usage": "Usage",
        "adjustments": "Adjustments",
        "expiry": "Expiry",
        "closing": "Closing balance",
        "credits": "credits",
        "when": "When",
        "what": "Entry",
        "details": "Details",
        "tokens": "Tokens (in → out)",
        "amount": "Amount",
        "balance": "Balance",
        "kind.usage": "usage",
        "kind.grant": "grant",
        "kind.purchase": "purchase",
        "kind.expiry": "expiry",
        "kind.adjustment": "adjustment",
        "kind.refund": "refund",
        "kind.move": "move",
        "evidence": "How usage was counted",
        "evidence.provider": "reported by the provider",
        "evidence.recounted": "recounted by us (estimated)",
        "evidence.checkpoint": "up to the last note (estimated)",
        "evidence.none": "never answered, no charge",
        "estimated": "estimated",
        "calls": "calls",
        "cost": "Provider cost",
        "no_entries": "No entries in this month.",
        "cut": "Showing the last {shown} of {total} entries; --limit 0 shows all.",
        "closes": "opening + grants + purchases − usage ± adjustments − expiry = closing",
        "spendable": "Available balance",
        "ledger_balance": "Ledger balance",
        "held": "Held by running calls",
        "unposted": "Usage not yet posted",
        "floor": "Floor of the balance",
        "plan": "Plan",
        "status": "Status",
        "status.active": "active",
        "status.blocked": "blocked",
        "mode": "Mode",
        "grants_open": "Grants",
        "granted": "Granted",
        "remaining": "Remaining",
        "expires": "Expires",
        "never": "never",
        "kind": "Kind",
        "kind.allowance": "plan's allowance",
        "orders_queued": "Orders waiting for the meter",
        "not_projected": "Redis does not know this account yet; the meter will bring it there.",
        "receipt": "Receipt",
        "model": "Model",
        "prices": "Price version",
        "provisional": "provisional, until the model has a price",
        "card": "Rate card",
        "outcome": "End of the call",
        "outcome.complete": "complete",
        "outcome.client_gone": "stopped by the user",
        "outcome.upstream_error": "provider's fault",
        "outcome.timeout": "timeout",
        "outcome.drained": "stopped for maintenance",
        "outcome.exhausted": "credit used up",
        "outcome.lost": "lost",
        "hold": "Held when settled",
        "units": "Units",
        "rate": "Credits per million",
        "cost_rate": "US$ per million",
        "total": "Total",
        "total_first": "First booked",
        "corrected": "Corrected total",
        "corrects": "corrects {event_id}",
        "late_record": "the call's own record came after all",
        "booked_first": "Booked first as",
        "differs": "Recomputed, the charge is {amount}: run `sundial audit`.",
        "paid_by": "Paid by",
        "uncovered": "overdraft, no grant",
    },
}

_DIGITS: Final = 100
"""Significant digits of an exact amount: more than any price times any count has."""

_SWAP: Final = str.maketrans(",.", ".,")


class Language:
    """One language: its words, numbers and dates."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._words = WORDS[name]

    def __call__(self, word: str) -> str:
        return self._words[word]

    def _number(self, text: str) -> str:
        return text.translate(_SWAP) if self.name == "pt-BR" else text

    def credits(self, mc: int, *, signed: bool = False) -> str:
        """Credits of millicredits: `1,234.5` in English, `1.234,5` in Portuguese; a `+` where `signed`."""
        plus = "+" if signed and mc > 0 else ""
        return plus + self._number(format_credits(mc).replace("-", "−"))

    def count(self, number: int) -> str:
        return self._number(f"{number:,}")

    def exact(self, amount: str, shift: int) -> str:
        """An exact decimal text, its point moved `shift` places to the left, every digit kept."""
        value = Decimal(amount).scaleb(-shift, Context(prec=_DIGITS))
        text = f"{value:,f}"
        return self._number(text.rstrip("0").rstrip(".") if "." in text else text)

    def usd(self, nano: int) -> str:
        return "US$ " + self._number(format_usd(nano))

    def permille(self, tenths: int) -> str:
        return self._number(f"{tenths / 10:.1f}") + " %"

    def moment(self, moment: datetime) -> str:
        return f"{moment:%d/%m/%Y %H:%M:%S}" if self.name == "pt-BR" else f"{moment:%Y-%m-%d %H:%M:%S}"
