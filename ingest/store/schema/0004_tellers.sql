-- Several instances tell findings, each its share of them. seq counts, from 1 and
-- without holes, what one teller has told: a reader that keeps the last one of each
-- misses nothing. The name is empty for an instance that tells all there is.
ALTER TABLE findings ADD COLUMN IF NOT EXISTS teller LowCardinality(String) DEFAULT '' FIRST;

-- Readers ask for what each teller has told since: both columns in one index, or
-- neither would leave anything out.
ALTER TABLE findings ADD INDEX IF NOT EXISTS by_teller (teller, seq) TYPE minmax GRANULARITY 1;
