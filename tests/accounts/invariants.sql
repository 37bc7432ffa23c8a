-- The ledger's invariants. Each statement finds what breaks one: no row is right. Written apart from the ledger's own code, and in nothing but SQL
-- that both stores know ({now_ms} and the like: server/accounts/db.c). A statement ends with a semicolon at the end of a line.

-- I1 what stands in balances is what the transfers come to, and nothing is made of nothing
SELECT 'I1', b.account, b.posted FROM balances b
WHERE b.posted <> (SELECT coalesce(sum(amount), 0) FROM transfers WHERE credit = b.account)
                - (SELECT coalesce(sum(amount), 0) FROM transfers WHERE debit = b.account);
SELECT 'I1 sum', sum(posted), 0 FROM balances HAVING sum(posted) <> 0;
SELECT 'I1 between', t.id, t.debit FROM transfers t
WHERE t.debit NOT IN (SELECT account FROM balances) OR t.credit NOT IN (SELECT account FROM balances);

-- I2 a prepaid project is never below its floor, unless an operator has put it there
SELECT 'I2', account, posted - pending FROM balances
WHERE floor IS NOT NULL AND posted - pending < floor
  AND account NOT IN (SELECT debit FROM transfers WHERE kind IN ('adjustment', 'chargeback'));

-- I3 a hold is resolved once
SELECT 'I3', request, count(*) FROM transfers WHERE kind = 'sale' GROUP BY request HAVING count(*) > 1;
SELECT 'I3 cost', request, count(*) FROM transfers WHERE kind = 'cost' GROUP BY request, attempt HAVING count(*) > 1;

-- I4 nobody is charged more than was held
SELECT 'I4', id, charged FROM requests WHERE charged > reserved;
SELECT 'I4 sale', r.id, r.charged FROM requests r
WHERE r.charged <> (SELECT coalesce(sum(amount), 0) FROM transfers t WHERE t.request = r.id AND t.kind = 'sale');
SELECT 'I4 open', r.id, 0 FROM requests r WHERE r.state <> 'posted' AND EXISTS (SELECT 1 FROM transfers t WHERE t.request = r.id AND t.kind IN ('sale', 'overrun'));

-- I6 an idempotency key stands for a request of its own account
SELECT 'I6', i.request, i.account FROM idempotency i LEFT JOIN requests r ON r.id = i.request WHERE r.id IS NULL OR r.account <> i.account;
SELECT 'I6 answer', i.request, i.account FROM idempotency i JOIN requests r ON r.id = i.request JOIN accounts p ON p.id = r.project
WHERE i.answer IS NOT NULL AND (r.state <> 'posted' OR p.stores_answers = 0);

-- I8 one cost line an attempt, one charge a request; a resolved request has no attempt that is still open
SELECT 'I8', a.request, a.n FROM attempts a
WHERE a.cost <> (SELECT coalesce(sum(amount), 0) FROM transfers t WHERE t.request = a.request AND t.attempt = a.n AND t.kind = 'cost');
SELECT 'I8 open', a.request, a.n FROM attempts a JOIN requests r ON r.id = a.request WHERE r.state <> 'reserved' AND a.state = 'open';
SELECT 'I8 attempt', t.request, t.attempt FROM transfers t LEFT JOIN attempts a ON a.request = t.request AND a.n = t.attempt
WHERE t.kind = 'cost' AND ((a.n IS NULL AND t.created_ms >= (SELECT pruned_ms FROM ledger_state)) OR a.supplier <> t.credit);

-- I9 what is pending is what open requests hold
SELECT 'I9', b.account, b.pending FROM balances b
WHERE b.pending <> (SELECT coalesce(sum(r.held), 0) FROM requests r WHERE r.project = b.account AND r.state = 'reserved');
SELECT 'I9 budget', w.budget, w.pending FROM budget_windows w
WHERE w.pending <> (SELECT coalesce(sum(h.held), 0) FROM request_windows h WHERE h.budget = w.budget AND h.starts_s = w.starts_s);
SELECT 'I9 window', h.request, h.budget FROM request_windows h LEFT JOIN requests r ON r.id = h.request WHERE r.id IS NULL OR r.state <> 'reserved';
SELECT 'I9 posted', w.budget, w.posted FROM budget_windows w WHERE w.posted < 0;

-- I10 a run's numbers have no gaps (2^32 numbers a run), but for those that were pruned
SELECT 'I10', r.id, n.found + r.pruned FROM runs r
JOIN (SELECT id / 4294967296 AS run, count(*) AS found, max(id % 4294967296) AS most FROM requests GROUP BY id / 4294967296) n ON n.run = r.id
WHERE n.found + r.pruned <> CASE WHEN n.most > r.pruned_to THEN n.most ELSE r.pruned_to END;
SELECT 'I10 run', q.id, 0 FROM requests q WHERE q.id / 4294967296 NOT IN (SELECT id FROM runs) OR q.id % 4294967296 = 0;
SELECT 'I10 pruned', r.id, r.pruned FROM runs r WHERE r.pruned > r.pruned_to;

-- the sums by day are those of the transfers
SELECT 'days', (SELECT coalesce(sum(sale), 0) FROM usage_days), (SELECT coalesce(sum(amount), 0) FROM transfers WHERE kind = 'sale') FROM ledger_state
WHERE (SELECT coalesce(sum(sale), 0) FROM usage_days) <> (SELECT coalesce(sum(amount), 0) FROM transfers WHERE kind = 'sale')
   OR (SELECT coalesce(sum(cost), 0) FROM usage_days) <> (SELECT coalesce(sum(amount), 0) FROM transfers WHERE kind = 'cost');
