"""Redshift's own functions and system views, as Postgres objects of every database.

They live in ``pg_catalog``, so that they are found whatever the search path is, and statement text needs no
rewriting for them. ``redshift_internal`` holds what the views need to remember and is hidden from the listings.
"""

from __future__ import annotations

CATALOG_SQL = r"""
CREATE SCHEMA IF NOT EXISTS redshift_internal;
GRANT USAGE ON SCHEMA redshift_internal TO PUBLIC;
CREATE TABLE IF NOT EXISTS redshift_internal.version (version text NOT NULL);
CREATE TABLE IF NOT EXISTS redshift_internal.ddl_lock (unused int);
GRANT ALL ON redshift_internal.ddl_lock TO PUBLIC;
CREATE TABLE IF NOT EXISTS redshift_internal.table_attributes (
    table_id oid PRIMARY KEY, diststyle text NOT NULL, distkey text, sortkeys text[] NOT NULL DEFAULT '{}');
GRANT ALL ON redshift_internal.table_attributes TO PUBLIC;
CREATE TABLE IF NOT EXISTS redshift_internal.load_errors (
    query_id bigint NOT NULL, session_id int NOT NULL, table_name text NOT NULL, table_id bigint,
    start_time timestamp NOT NULL, file_name text NOT NULL, line_number bigint NOT NULL, column_name text,
    column_type text, column_length text, error_code int NOT NULL, error_message text NOT NULL);
GRANT SELECT ON redshift_internal.load_errors TO PUBLIC;

-- Date and time --------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION pg_catalog.getdate() RETURNS timestamp LANGUAGE sql VOLATILE AS
    $$ SELECT date_trunc('second', clock_timestamp() AT TIME ZONE 'UTC') $$;
CREATE OR REPLACE FUNCTION pg_catalog.sysdate_() RETURNS timestamp LANGUAGE sql STABLE AS
    $$ SELECT now() AT TIME ZONE 'UTC' $$;

CREATE OR REPLACE FUNCTION pg_catalog.redshift_part(part text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE
        WHEN lower(part) IN ('microsecond', 'microseconds', 'microsec', 'microsecs', 'usec', 'usecs', 'us')
            THEN 'microsecond'
        WHEN lower(part) IN ('millisecond', 'milliseconds', 'millisec', 'millisecs', 'msec', 'msecs', 'ms', 'msecond')
            THEN 'millisecond'
        WHEN lower(part) IN ('second', 'seconds', 'sec', 'secs', 's') THEN 'second'
        WHEN lower(part) IN ('minute', 'minutes', 'min', 'mins', 'm', 'mi') THEN 'minute'
        WHEN lower(part) IN ('hour', 'hours', 'hr', 'hrs', 'h', 'hh') THEN 'hour'
        WHEN lower(part) IN ('day', 'days', 'd', 'dd') THEN 'day'
        WHEN lower(part) IN ('week', 'weeks', 'w', 'wk') THEN 'week'
        WHEN lower(part) IN ('month', 'months', 'mon', 'mons', 'mm') THEN 'month'
        WHEN lower(part) IN ('quarter', 'quarters', 'qtr', 'qtrs') THEN 'quarter'
        WHEN lower(part) IN ('year', 'years', 'yr', 'yrs', 'y', 'yyyy') THEN 'year'
        WHEN lower(part) IN ('decade', 'decades', 'dec', 'decs') THEN 'decade'
        WHEN lower(part) IN ('century', 'centuries', 'c', 'cent', 'cents') THEN 'century'
    END;
END $$;

CREATE OR REPLACE FUNCTION pg_catalog.redshift_dateadd(part text, n bigint, at timestamp) RETURNS timestamp
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE unit text := pg_catalog.redshift_part(part);
BEGIN
    IF unit IS NULL THEN RAISE EXCEPTION 'invalid datepart "%" for DATEADD', part USING ERRCODE = '22023'; END IF;
    IF unit = 'quarter' THEN unit := 'month'; n := n * 3; END IF;
    -- Redshift keeps the end of a month: 28 February plus one month is 28 March, as Postgres has it too.
    RETURN at + (n::text || ' ' || unit)::interval;
END $$;

-- The number of boundaries that are crossed, not of whole units that have passed.
CREATE OR REPLACE FUNCTION pg_catalog.redshift_datediff(part text, a timestamp, b timestamp) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE unit text := pg_catalog.redshift_part(part);
BEGIN
    CASE unit
        WHEN 'year' THEN RETURN extract(year FROM b) - extract(year FROM a);
        WHEN 'quarter' THEN
            RETURN (extract(year FROM b) - extract(year FROM a)) * 4
                + extract(quarter FROM b) - extract(quarter FROM a);
        WHEN 'month' THEN
            RETURN (extract(year FROM b) - extract(year FROM a)) * 12 + extract(month FROM b) - extract(month FROM a);
        WHEN 'decade' THEN RETURN extract(decade FROM b) - extract(decade FROM a);
        WHEN 'century' THEN RETURN extract(century FROM b) - extract(century FROM a);
        WHEN 'week' THEN RETURN (date_trunc('week', b)::date - date_trunc('week', a)::date) / 7;
        WHEN 'day' THEN RETURN b::date - a::date;
        WHEN 'hour' THEN RETURN round(extract(epoch FROM date_trunc('hour', b) - date_trunc('hour', a)) / 3600);
        WHEN 'minute' THEN RETURN round(extract(epoch FROM date_trunc('minute', b) - date_trunc('minute', a)) / 60);
        WHEN 'second' THEN RETURN round(extract(epoch FROM date_trunc('second', b) - date_trunc('second', a)));
        WHEN 'millisecond' THEN
            RETURN round(extract(epoch FROM date_trunc('milliseconds', b) - date_trunc('milliseconds', a)) * 1000);
        WHEN 'microsecond' THEN RETURN round(extract(epoch FROM b - a) * 1000000);
        ELSE RAISE EXCEPTION 'invalid datepart "%" for DATEDIFF', part USING ERRCODE = '22023';
    END CASE;
END $$;

CREATE OR REPLACE FUNCTION pg_catalog.add_months(at timestamp, n bigint) RETURNS timestamp
LANGUAGE sql IMMUTABLE STRICT AS $$
    -- The last day of a month stays the last day of a month.
    SELECT CASE WHEN at::date = (date_trunc('month', at) + interval '1 month - 1 day')::date
        THEN date_trunc('month', at) + (n + 1 || ' months')::interval - interval '1 day' + (at - date_trunc('day', at))
        ELSE at + (n || ' months')::interval END $$;
CREATE OR REPLACE FUNCTION pg_catalog.months_between(a timestamp, b timestamp) RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT ((extract(year FROM a) - extract(year FROM b)) * 12 + extract(month FROM a) - extract(month FROM b)
        + CASE WHEN extract(day FROM a) = extract(day FROM b)
            OR (a::date = (date_trunc('month', a) + interval '1 month - 1 day')::date
                AND b::date = (date_trunc('month', b) + interval '1 month - 1 day')::date)
          THEN 0 ELSE (extract(epoch FROM a - date_trunc('month', a)) - extract(epoch FROM b - date_trunc('month', b)))
            / 86400 / 31 END)::double precision $$;
CREATE OR REPLACE FUNCTION pg_catalog.last_day(at timestamp) RETURNS date LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT (date_trunc('month', at) + interval '1 month - 1 day')::date $$;
CREATE OR REPLACE FUNCTION pg_catalog.next_day(at timestamp, day text) RETURNS date
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT d::date FROM generate_series(at::date + 1, at::date + 7, interval '1 day') d
    WHERE to_char(d, 'dy') = lower(left(day, 3)) $$;
CREATE OR REPLACE FUNCTION pg_catalog.trunc(at timestamp) RETURNS date LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT at::date $$;
CREATE OR REPLACE FUNCTION pg_catalog.convert_timezone(zone text, at timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT at AT TIME ZONE 'UTC' AT TIME ZONE zone $$;
CREATE OR REPLACE FUNCTION pg_catalog.convert_timezone(source text, zone text, at timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT at AT TIME ZONE source AT TIME ZONE zone $$;

-- Text -----------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION pg_catalog.len(value text) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT length(value) $$;
CREATE OR REPLACE FUNCTION pg_catalog.charindex(needle text, hay text) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT strpos(hay, needle) $$;
CREATE OR REPLACE FUNCTION pg_catalog.strtol(value text, base int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE STRICT
AS $$
DECLARE total bigint := 0; digit int; letter text;
BEGIN
    FOREACH letter IN ARRAY string_to_array(lower(ltrim(value, '-')), NULL) LOOP
        digit := strpos('0123456789abcdefghijklmnopqrstuvwxyz', letter) - 1;
        IF digit < 0 OR digit >= base THEN
            RAISE EXCEPTION 'The input % is not valid to be converted to base %', value, base USING ERRCODE = '22P02';
        END IF;
        total := total * base + digit;
    END LOOP;
    RETURN CASE WHEN left(value, 1) = '-' THEN -total ELSE total END;
END $$;
CREATE OR REPLACE FUNCTION pg_catalog.sha2(value text, bits int) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT encode(CASE bits WHEN 224 THEN sha224(convert_to(value, 'UTF8'))
        WHEN 384 THEN sha384(convert_to(value, 'UTF8'))
        WHEN 512 THEN sha512(convert_to(value, 'UTF8')) ELSE sha256(convert_to(value, 'UTF8')) END, 'hex') $$;
CREATE OR REPLACE FUNCTION pg_catalog.json_extract_path_text(value text, VARIADIC path text[]) RETURNS text
LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT jsonb_extract_path_text(value::jsonb, VARIADIC path) $$;
CREATE OR REPLACE FUNCTION pg_catalog.json_parse(value text) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT value::jsonb $$;
CREATE OR REPLACE FUNCTION pg_catalog.json_serialize(value jsonb) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT value::text $$;
CREATE OR REPLACE FUNCTION pg_catalog.is_valid_json(value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    PERFORM value::jsonb;
    RETURN jsonb_typeof(value::jsonb) = 'object';
EXCEPTION WHEN OTHERS THEN RETURN false;
END $$;

-- AVG of whole numbers is a whole number ----------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION pg_catalog.redshift_avg_step(state numeric[], value numeric) RETURNS numeric[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN value IS NULL THEN state ELSE ARRAY[state[1] + value, state[2] + 1] END $$;
CREATE OR REPLACE FUNCTION pg_catalog.redshift_avg_end(state numeric[]) RETURNS bigint LANGUAGE sql IMMUTABLE AS
    $$ SELECT CASE WHEN state[2] > 0 THEN trunc(state[1] / state[2])::bigint END $$;
CREATE OR REPLACE FUNCTION pg_catalog.redshift_avg_int8(state numeric[], value bigint) RETURNS numeric[]
LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.redshift_avg_step(state, value::numeric) $$;
CREATE OR REPLACE AGGREGATE pg_catalog.redshift_avg(bigint) (
    SFUNC = pg_catalog.redshift_avg_int8, STYPE = numeric[], FINALFUNC = pg_catalog.redshift_avg_end,
    INITCOND = '{0,0}');
CREATE OR REPLACE FUNCTION pg_catalog.redshift_avg_int4(state numeric[], value integer) RETURNS numeric[]
LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.redshift_avg_step(state, value::numeric) $$;
CREATE OR REPLACE AGGREGATE pg_catalog.redshift_avg(integer) (
    SFUNC = pg_catalog.redshift_avg_int4, STYPE = numeric[], FINALFUNC = pg_catalog.redshift_avg_end,
    INITCOND = '{0,0}');
CREATE OR REPLACE FUNCTION pg_catalog.redshift_avg_int2(state numeric[], value smallint) RETURNS numeric[]
LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.redshift_avg_step(state, value::numeric) $$;
CREATE OR REPLACE AGGREGATE pg_catalog.redshift_avg(smallint) (
    SFUNC = pg_catalog.redshift_avg_int2, STYPE = numeric[], FINALFUNC = pg_catalog.redshift_avg_end,
    INITCOND = '{0,0}');
CREATE OR REPLACE FUNCTION pg_catalog.redshift_avg_numeric(state numeric[]) RETURNS numeric LANGUAGE sql IMMUTABLE AS
    $$ SELECT CASE WHEN state[2] > 0 THEN state[1] / state[2] END $$;
CREATE OR REPLACE AGGREGATE pg_catalog.redshift_avg(numeric) (
    SFUNC = pg_catalog.redshift_avg_step, STYPE = numeric[], FINALFUNC = pg_catalog.redshift_avg_numeric,
    INITCOND = '{0,0}');
CREATE OR REPLACE AGGREGATE pg_catalog.redshift_avg(double precision) (
    SFUNC = float8_accum, STYPE = double precision[], FINALFUNC = float8_avg, INITCOND = '{0,0,0}');

-- The last COPY of this session -------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION pg_catalog.pg_last_copy_count() RETURNS bigint LANGUAGE sql STABLE AS
    $$ SELECT coalesce(nullif(current_setting('redshift.last_copy_count', true), ''), '0')::bigint $$;
CREATE OR REPLACE FUNCTION pg_catalog.pg_last_copy_id() RETURNS bigint LANGUAGE sql STABLE AS
    $$ SELECT coalesce(nullif(current_setting('redshift.last_copy_id', true), ''), '-1')::bigint $$;
CREATE OR REPLACE FUNCTION pg_catalog.pg_last_query_id() RETURNS bigint LANGUAGE sql STABLE AS
    $$ SELECT coalesce(nullif(current_setting('redshift.last_query_id', true), ''), '-1')::bigint $$;

-- System views ------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION redshift_internal.count_rows(id oid) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE n bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM %s', id::regclass) INTO n;
    RETURN n;
END $$;

CREATE OR REPLACE VIEW redshift_internal.user_tables AS
    SELECT c.oid, n.nspname, c.relname, c.relkind, a.diststyle, a.distkey, coalesce(a.sortkeys, '{}') AS sortkeys
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN redshift_internal.table_attributes a ON a.table_id = c.oid
    WHERE c.relkind IN ('r', 'v', 'm', 'p')
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'redshift_internal')
      AND n.nspname NOT LIKE 'pg\_toast%';
GRANT SELECT ON redshift_internal.user_tables TO PUBLIC;

CREATE OR REPLACE VIEW pg_catalog.svv_table_info AS
    SELECT current_database()::varchar(128) AS database, nspname::varchar(128) AS schema, oid::bigint AS table_id,
        relname::varchar(128) AS "table", 'N'::varchar(12) AS encoded,
        coalesce(CASE WHEN diststyle = 'KEY' THEN 'KEY(' || distkey || ')' ELSE diststyle END,
            'AUTO(ALL)')::varchar(191) AS diststyle,
        coalesce(sortkeys[1], 'AUTO(SORTKEY)')::varchar(127) AS sortkey1,
        coalesce(array_length(sortkeys, 1), 0)::int AS sortkey_num,
        (pg_total_relation_size(oid) / 1048576 + 1)::bigint AS size, 0::numeric(10, 4) AS pct_used,
        redshift_internal.count_rows(oid)::numeric(38, 0) AS tbl_rows, 0::numeric(5, 2) AS unsorted,
        0::numeric(5, 2) AS stats_off
    FROM redshift_internal.user_tables WHERE relkind IN ('r', 'p') AND nspname NOT LIKE 'pg\_temp%';
CREATE OR REPLACE VIEW pg_catalog.svv_tables AS
    SELECT current_database()::varchar(128) AS table_catalog, nspname::varchar(128) AS table_schema,
        relname::varchar(128) AS table_name,
        (CASE WHEN relkind IN ('v', 'm') THEN 'VIEW' ELSE 'BASE TABLE' END)::varchar(128) AS table_type,
        obj_description(oid, 'pg_class') AS remarks
    FROM redshift_internal.user_tables;
CREATE OR REPLACE VIEW pg_catalog.svv_columns AS
    SELECT table_catalog, table_schema, table_name, column_name, ordinal_position, column_default, is_nullable,
        data_type, character_maximum_length, numeric_precision, numeric_scale
    FROM information_schema.columns WHERE table_schema <> 'redshift_internal';
CREATE OR REPLACE VIEW pg_catalog.svv_all_schemas AS
    SELECT current_database()::varchar(128) AS database_name, nspname::varchar(128) AS schema_name,
        nspowner::int AS schema_owner, 'local'::varchar(128) AS schema_type
    FROM pg_namespace WHERE nspname <> 'redshift_internal' AND nspname NOT LIKE 'pg\_t%';
CREATE OR REPLACE VIEW pg_catalog.pg_table_def AS
    SELECT t.nspname AS schemaname, t.relname AS tablename, a.attname AS "column",
        format_type(a.atttypid, a.atttypmod) AS type,
        'none'::varchar(32) AS encoding, coalesce(a.attname = t.distkey, false) AS distkey,
        coalesce(array_position(t.sortkeys, a.attname::text), 0) AS sortkey, a.attnotnull AS "notnull"
    FROM redshift_internal.user_tables t JOIN pg_attribute a ON a.attrelid = t.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND t.nspname = ANY (current_schemas(true));
CREATE OR REPLACE VIEW pg_catalog.stv_sessions AS
    SELECT backend_start::timestamp AS starttime, pid AS process, usename::varchar(50) AS user_name,
        datname::varchar(50) AS db_name
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = current_user;
CREATE OR REPLACE VIEW pg_catalog.stv_recents AS
    SELECT 100::int AS userid, (CASE state WHEN 'active' THEN 'Running' ELSE 'Done' END)::varchar(20) AS status,
        query_start::timestamp AS starttime, usename::varchar(50) AS user_name, datname::varchar(50) AS db_name,
        query::varchar(600) AS query, pid
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = current_user;
CREATE OR REPLACE VIEW pg_catalog.sys_load_error_detail AS
    SELECT 100::int AS user_id, query_id, 0::bigint AS transaction_id, session_id,
        current_database()::varchar(64) AS database_name, table_id, table_name::varchar(128) AS table_name,
        start_time, file_name::varchar(256) AS file_name, line_number,
        column_name::varchar(127) AS column_name, column_type::varchar(10) AS column_type,
        column_length::varchar(10) AS column_length, 0::int AS position, error_code,
        error_message::varchar(512) AS error_message
    FROM redshift_internal.load_errors;
CREATE OR REPLACE VIEW pg_catalog.stl_load_errors AS
    SELECT 100::int AS userid, 0::int AS slice, table_id::int AS tbl, start_time AS starttime, session_id AS session,
        query_id AS query, file_name::char(256) AS filename, line_number, column_name::char(127) AS colname,
        column_type::char(10) AS type, column_length::char(10) AS col_length, 0::int AS position,
        ''::char(1024) AS raw_line, ''::char(1024) AS raw_field_value, error_code AS err_code,
        error_message::char(100) AS err_reason
    FROM redshift_internal.load_errors;
GRANT SELECT ON pg_catalog.svv_table_info, pg_catalog.svv_tables, pg_catalog.svv_columns, pg_catalog.svv_all_schemas,
    pg_catalog.pg_table_def, pg_catalog.stv_sessions, pg_catalog.stv_recents, pg_catalog.sys_load_error_detail,
    pg_catalog.stl_load_errors TO PUBLIC;
"""
