-- The archive counted again, for DuckDB 1.5 or newer (other engines: the same rules in their dialect), and compared
-- with what the aggregator says. In a folder with `archive/` (the Parquet files) and `cells/N.json`
-- (the answer of /v1/partitions/N/cells for each partition N):
--   duckdb -c "SET VARIABLE from_minute = …; SET VARIABLE to_minute = …" -f recount.sql
-- Minutes are Unix minutes (seconds / 60), those that the cells were asked for; without them: all.
-- The last statement answers a row for each difference, and none where both agree. After an error
-- nothing was compared.

-- What the aggregator says, as facts: a number under names.
CREATE OR REPLACE TEMP TABLE answers AS
SELECT CAST(regexp_extract(filename, '([0-9]+)\.json$', 1) AS INTEGER) AS part, * EXCLUDE (filename)
FROM read_json('cells/*.json', format = 'newline_delimited', filename = true, columns = {
  'sequence': 'UBIGINT', 'minute': 'BIGINT', 'declared': 'BIGINT', 'imported': 'BIGINT',
  'counted': 'BIGINT', 'duplicate': 'BIGINT', 'reasons': 'MAP(VARCHAR, BIGINT)', 'ad': 'VARCHAR',
  'publisher': 'VARCHAR', 'country': 'VARCHAR', 'device': 'VARCHAR', 'kind': 'VARCHAR',
  'valid': 'BOOLEAN', 'count': 'BIGINT', 'amount': 'VARCHAR', 'currency': 'VARCHAR', 'micros': 'BIGINT', 'end': 'BOOLEAN',
  'cut_off': 'STRUCT(edge VARCHAR, sequence UBIGINT, entry BIGINT)[]'});

SELECT error('cells/' || part || '.json was cut off: ask again')
FROM answers GROUP BY part HAVING NOT coalesce(bool_or("end"), false);

CREATE OR REPLACE TEMP TABLE positions AS
SELECT part, sequence AS until FROM answers WHERE sequence IS NOT NULL;

SELECT error('cells/' || "partition" || '.json is missing: the archive has this partition')
FROM (SELECT DISTINCT "partition"
  FROM read_parquet('archive/**/*.parquet', hive_partitioning = false, union_by_name = true))
ANTI JOIN positions ON "partition" = part;

CREATE OR REPLACE TEMP TABLE engine AS
SELECT part, minute, coalesce(ad, '') AS ad, coalesce(publisher, '') AS publisher,
  coalesce(country, '') AS country, coalesce(device, '') AS device, coalesce(kind, '') AS kind,
  what, sum(n) AS n
FROM (
  SELECT * EXCLUDE (pair), pair.key AS what, pair.value AS n FROM (
    SELECT *, unnest(map_entries(map_concat(
      MAP {'declared': declared, 'imported': imported, 'counted': counted, 'duplicate': duplicate},
      reasons))) AS pair
    FROM answers WHERE declared IS NOT NULL)
  UNION ALL
  SELECT *, CASE WHEN valid THEN 'valid' ELSE 'invalid' END AS what, "count" AS n
  FROM answers WHERE "count" IS NOT NULL
  UNION ALL
  SELECT *, coalesce(amount, 'spend') || ' ' || currency AS what, micros AS n FROM answers
  WHERE currency IS NOT NULL
) GROUP BY ALL HAVING sum(n) <> 0;

-- The archive up to these positions. Nothing is counted in a minute further ahead of the collector's
-- stamp than 60 s, and but for imported logs nothing in one more than 7 days behind the log's clock: what
-- says so has that for its reason, and the nearest minute inside.
CREATE OR REPLACE TEMP VIEW log AS
SELECT * EXCLUDE (own, earliest_minute, latest_minute),
  CASE WHEN own > latest_minute THEN latest_minute
    WHEN own < earliest_minute AND source IS NULL THEN earliest_minute ELSE own END AS minute,
  CASE WHEN own > latest_minute THEN 'clock_ahead'
    WHEN own < earliest_minute AND source IS NULL THEN 'too_late' END AS outside
FROM (
  SELECT archive.* EXCLUDE ("partition"), part, epoch_ms("at") // 60000 AS own,
    greatest(epoch_ms(clock) - 7 * 86400000, 0) // 60000 AS earliest_minute,
    greatest((epoch_ms(stamp) + 60000) // 60000, earliest_minute) AS latest_minute
  FROM (
    FROM read_parquet('archive/**/*.parquet', hive_partitioning = false, union_by_name = true)
    -- Files of before have no digests.
    UNION ALL BY NAME SELECT CAST(NULL AS VARCHAR) AS digest WHERE false) archive
  JOIN positions ON archive."partition" = part
  WHERE sequence <= until);

-- A batch that came before is skipped with all that it brings, and so is one of which an operator has
-- said that it never comes, when it was missing then: a later one of its outbox had come. Of an edge that
-- the engine has cut off, with its shards (`name--shard`), nothing counts that is new from that place on.
CREATE OR REPLACE TEMP TABLE batches AS
SELECT part, sequence, entry, record, edge, epoch, "number", digest,
  row_number() OVER (same ORDER BY sequence, coalesce(entry, 0)) AS nth,
  bool_and(is_cut_off) OVER same AS is_over_quota
FROM (
  SELECT log.*, cut_off.edge IS NOT NULL AS is_cut_off,
    max("number") FILTER (record = 'batch' AND cut_off.edge IS NULL) OVER (
      PARTITION BY log.part, log.edge, log.epoch ORDER BY log.sequence, coalesce(log.entry, 0)) AS latest
  FROM log LEFT JOIN (
    SELECT part, unnest(cut_off, recursive := true) FROM answers WHERE len(cut_off) > 0) cut_off
  ON log.part = cut_off.part
    AND coalesce(nullif(split_part(log.edge, '--', 1), ''), log.edge) = cut_off.edge
    AND (log.sequence, coalesce(log.entry, 0)) >= (cut_off.sequence, cut_off.entry)
  WHERE record IN ('batch', 'resolved'))
WHERE record = 'batch' OR "number" < latest AND NOT is_cut_off
WINDOW same AS (PARTITION BY part, edge, epoch, "number");

CREATE OR REPLACE TEMP VIEW repeated AS
SELECT part, sequence, entry FROM batches WHERE nth > 1 AND NOT is_over_quota;

CREATE OR REPLACE TEMP VIEW over_quota AS
SELECT part, sequence, entry, is_over_quota FROM batches WHERE record = 'batch' AND is_over_quota;

-- Two contents under one number are a fault: nothing of what came second was counted.
CREATE OR REPLACE TEMP TABLE conflicts AS
SELECT part, edge, epoch, "number", list(DISTINCT digest ORDER BY digest) AS digests
FROM batches WHERE record = 'batch' AND digest IS NOT NULL AND NOT is_over_quota
GROUP BY ALL HAVING count(DISTINCT digest) > 1;

-- An imported log is taken as far as its chunks follow each other from its first row on; the rows of a
-- message are judged by what was taken before it.
CREATE OR REPLACE TEMP TABLE taken AS
WITH RECURSIVE chunks AS (
  SELECT part, source, sequence, source_row AS first_row, source_end AS end_row, row_number() OVER (
    PARTITION BY part, source ORDER BY sequence, source_row, source_end) AS nth
  FROM log WHERE record = 'chunk'),
walk AS (
  SELECT part, source, sequence, nth, CAST(0 AS UBIGINT) AS before,
    CASE WHEN first_row = 0 THEN end_row ELSE 0 END AS upto
  FROM chunks WHERE nth = 1
  UNION ALL
  SELECT chunks.part, chunks.source, chunks.sequence, chunks.nth, walk.upto AS before,
    CASE WHEN first_row <= walk.upto AND end_row > walk.upto THEN end_row ELSE walk.upto END
  FROM walk JOIN chunks ON chunks.part = walk.part AND chunks.source = walk.source
    AND chunks.nth = walk.nth + 1)
SELECT part, source, sequence, min_by(before, nth) AS taken FROM walk GROUP BY part, source, sequence;

-- The horizon is 7 days after the block's minute. What a test's event would have been is the valid one.
CREATE OR REPLACE TEMP VIEW fresh AS
SELECT log.*, taken, is_over_quota,
  opened IS NOT NULL AND epoch_ms(opened) + 60000 + 7 * 86400000 < epoch_ms(clock) AS is_late,
  coalesce(verdict, 'test') = 'test' AS is_valid
FROM log ANTI JOIN repeated USING (part, sequence, entry)
LEFT JOIN taken USING (part, source, sequence)
LEFT JOIN over_quota USING (part, sequence, entry)
WHERE record IN ('event', 'tally', 'declared');

-- The first of what is accepted of an impression and kind counts, valid ones apart from others.
CREATE OR REPLACE TEMP TABLE seen AS
SELECT part, issuer, block, seq, kind, is_valid,
  min({'s': sequence, 'r': "row"}) AS earliest
FROM fresh
WHERE record = 'event' AND outcome = 'accepted' AND outside IS NULL AND block IS NOT NULL AND NOT is_late
  AND is_over_quota IS NULL
GROUP BY ALL HAVING count(*) > 1;

CREATE OR REPLACE TEMP VIEW judged AS
SELECT fresh.*, CASE
    WHEN record = 'declared' THEN 'declared'
    WHEN is_over_quota THEN 'over_quota'
    WHEN record = 'tally' THEN coalesce(outside, outcome)
    WHEN outcome <> 'accepted' THEN outcome
    WHEN outside IS NOT NULL THEN outside
    WHEN block IS NULL THEN 'malformed'
    WHEN is_late THEN 'too_late'
    WHEN source_row < taken THEN 'duplicate'
    WHEN {'s': sequence, 'r': "row"} > earliest THEN 'duplicate'
    ELSE 'new'
  END AS fate
FROM fresh LEFT JOIN seen USING (part, issuer, block, seq, kind, is_valid)
WHERE minute >= coalesce(getvariable('from_minute'), 0)
  AND minute < coalesce(getvariable('to_minute'), 4294967295)
  AND NOT (record = 'declared' AND source IS NOT NULL);

-- A test is in the accounts alone.
CREATE OR REPLACE TEMP TABLE facts AS
SELECT part, minute, ad, publisher, country, device, kind, what,
  -- A sum of money ends at the bound of 64 bits.
  least(sum(n), 9223372036854775807) AS n FROM (
  SELECT part, minute, coalesce(ad, '') AS ad, coalesce(publisher, '') AS publisher, country, device,
    kind, CASE WHEN verdict IS NULL THEN 'valid' ELSE 'invalid' END AS what, "count" AS n
  FROM judged WHERE fate = 'new' AND coalesce(verdict, '') <> 'test'
  UNION ALL
  SELECT part, minute, coalesce(ad, ''), coalesce(publisher, ''), country, device, kind,
    'spend ' || currency, price_micros
  FROM judged
  WHERE fate = 'new' AND verdict IS NULL AND kind = 'impression' AND currency IS NOT NULL
  UNION ALL
  SELECT part, minute, '', '', '', '', '',
    CASE WHEN fate <> 'new' THEN fate ELSE coalesce(verdict, 'counted') END, "count"
  FROM judged
  UNION ALL
  SELECT part, minute, '', '', '', '', '', 'imported', "count" FROM judged WHERE source IS NOT NULL
) GROUP BY ALL HAVING sum(n) <> 0;

SELECT part AS "partition", make_timestamp(minute * 60000000) AS minute, ad, publisher, country,
  device, kind, what, coalesce(facts.n, 0) AS archived, coalesce(engine.n, 0) AS counted
FROM facts FULL JOIN engine USING (part, minute, ad, publisher, country, device, kind, what)
WHERE archived <> counted
UNION ALL BY NAME
SELECT part AS "partition", 'edge ' || edge || ' epoch ' || epoch || ' batch ' || "number"
  || ' came with two contents: ' || array_to_string(digests, ', ') AS what,
  len(digests) AS archived, 1 AS counted
FROM conflicts
ORDER BY ALL;
