-- How many inserts' tokens a table knows. Several instances write to one server: after
-- it was away, each sends the batch again whose answer it has not heard, and others
-- have inserted hundreds meanwhile.
ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE logs MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE ledger MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE kept MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE findings MODIFY SETTING non_replicated_deduplication_window = 10000;
ALTER TABLE finding_actions MODIFY SETTING non_replicated_deduplication_window = 10000;
