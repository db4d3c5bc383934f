-- Marks a judgement as used today.
-- Locks: ROW EXCLUSIVE on golive.judgements; its row.
UPDATE golive.judgements SET used_on = current_date WHERE judgement_key = %(key)s AND used_on < current_date;
