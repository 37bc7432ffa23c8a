"""I7: every amount can be computed again from the stored tokens and the stored price versions. Written apart from the ledger's own code, by
docs/prices.md alone: whole numbers and fractions, rounded half up once a line.

    python price_oracle.py accounts.db      prints what cannot be computed again; exit status 1 if there is anything
"""
import json
import sqlite3
import sys
from fractions import Fraction

IN = ("in_uncached", "in_cache_read", "in_cache_write_5m", "in_cache_write_1h", "in_audio", "in_image")
METERS = IN + ("out_text", "out_reasoning", "out_audio", "searches")
UNPRICED = "something was used that has no price"  # then the most that it can cost is charged, and somebody is to look


def line(price, used, tier, markup=0):
    """Nano-dollars of what was used, markup in percent; None: it has no price."""
    total_in = sum(used.get(m) or 0 for m in IN)
    fitting = [t for t in price["prices"] if t.get("tier", "standard") == tier and t.get("from", 0) <= total_in]
    if not fitting:
        return None
    rates = max(fitting, key=lambda t: t.get("from", 0))
    exact = Fraction(0)
    for meter, count in used.items():
        if count and meter not in rates:
            return None
        if count:
            exact += Fraction(count * rates[meter][0], rates[meter][1])
    exact *= 1 + Fraction(markup) / 100
    return (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)


def problems(rows):
    """rows: a function from SQL to tuples."""
    named = "SELECT price FROM attempts UNION SELECT price FROM requests UNION SELECT markup FROM requests"
    prices = {i: json.loads(text) for i, text in rows(f"SELECT id, rows FROM prices WHERE id IN ({named})")}
    unpriced = set(rows(f"SELECT request, attempt FROM reconciliation WHERE reason = '{UNPRICED}'"))
    overrun = dict(rows("SELECT request, amount FROM transfers WHERE kind = 'overrun'"))
    used, out = {}, []
    columns = "request, n, state, price, tier, cost, cost_estimate, sale_estimate, " + ", ".join(METERS)
    for request, n, state, price, tier, cost, cost_estimate, sale_estimate, *counts in rows(f"SELECT {columns} FROM attempts"):
        meters = {m: c for m, c in zip(METERS, counts) if c is not None}
        used[request, n] = (state, meters, tier, sale_estimate)
        if state == "open" or (request, n) in unpriced:
            continue
        if state == "unknown":
            wanted = cost_estimate
        elif not meters:
            wanted = 0
        else:
            wanted = line(prices[price], meters, tier or "standard") if price in prices else "a price"
        if cost != wanted:
            out.append(f"attempt {request}/{n}: cost {cost}, computed {wanted} of {meters} {tier} by price {price}")
    for request, price, markup, charged, served in rows("SELECT id, price, markup, charged, served FROM requests WHERE state = 'posted'"):
        state, meters, tier, sale_estimate = used[request, served]
        if (request, served) in unpriced:
            continue
        tier = tier or "standard"
        if state == "unknown":
            wanted = sale_estimate
        elif price not in prices:
            wanted = "a price"
        else:
            if tier not in [t.get("tier", "standard") for t in prices[price]["prices"]]:
                tier = "standard"
            percent = Fraction(*prices[markup]["percent"]) if markup else 0
            wanted = line(prices[price], meters, tier, percent)
        if charged + overrun.get(request, 0) != wanted:
            out.append(f"request {request}: sale {charged} and overrun {overrun.get(request, 0)}, computed {wanted} of {meters} by price {price}, mark-up {markup}")
    return out


if __name__ == "__main__":
    store = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
    found = problems(lambda sql: store.execute(sql).fetchall())
    print("\n".join(found) or "every amount is computed again")
    sys.exit(bool(found))
