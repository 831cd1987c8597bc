"""A batch of bookings in one call: what the usual one needs, or nothing of it (docs/decisions/0033)."""

from alembic import op

revision = "0010"
down_revision = "0009"

# One statement writes the rows, so that none is without its history. What is refused already, or there, is left out.
# "IS TRUE" keeps Postgres from making a join of it: it expects a handful of rows, and would compare each with each.
_INSERT_BOOKINGS = """
    CREATE FUNCTION holdfast_insert_bookings(batch json) RETURNS TABLE (made_id uuid, made_number bigint)
    LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    BEGIN
        RETURN QUERY
        WITH given AS (
            SELECT * FROM json_to_recordset(batch) AS said(
                       id uuid, event_id text, customer_id text, epoch bigint, first_leg smallint, last_leg smallint,
                       places text, items text, from_stop text, to_stop text, price text, amount bigint, currency text,
                       exclusive boolean, sealed text, status text, created_at timestamptz, updated_at timestamptz,
                       confirmed_at timestamptz, expires_at timestamptz, actor text, role text, request_id text)
             WHERE NOT EXISTS (SELECT FROM refused_bookings WHERE refused_bookings.id = said.id)
        ), made AS (
            INSERT INTO bookings (payment_status, version, id, event_id, customer_id, epoch, first_leg, last_leg,
                                  places, items, from_stop, to_stop, price, amount, currency, exclusive, sealed,
                                  status, created_at, updated_at, confirmed_at, expires_at)
            SELECT 'none', 1, id, event_id, customer_id, epoch, first_leg, last_leg, places, items::jsonb, from_stop,
                   to_stop, price::jsonb, amount, currency, exclusive, decode(sealed, 'base64'), status, created_at,
                   updated_at, confirmed_at, expires_at
              FROM given ORDER BY id
            ON CONFLICT DO NOTHING
            RETURNING *
        ), recorded AS (
            INSERT INTO history (booking_id, version, to_status, actor, role, at, request_id)
            SELECT id, 1, status, actor, role, updated_at, request_id
              FROM given WHERE (id IN (SELECT id FROM made)) IS TRUE
        ), told AS MATERIALIZED (
            SELECT id, number, event_id, status, updated_at, jsonb_build_object(
                       'customer_id', customer_id, 'status', status, 'payment_status', payment_status,
                       'version', version, 'items', items, 'from', from_stop, 'to', to_stop,
                       'amount', amount, 'currency', currency, 'created_at', created_at, 'confirmed_at', confirmed_at
                   ) AS payload
              FROM made
        ), published AS (
            INSERT INTO outbox (booking_id, number, event_id, type, payload, created_at)
            SELECT id, number, event_id, type, payload, updated_at
              FROM told CROSS JOIN (VALUES ('booking.created'), ('booking.confirmed')) AS types(type)
             WHERE status <> 'blocked' AND (type = 'booking.created' OR status = 'confirmed')
        )
        SELECT id, number FROM made;
    END $$
"""

# Statement by statement, in the order of locks of persistence/ledger_batch.py: each sees what the locks before it have
# waited for. Whatever is not as usual ends the whole call with HF001, and nothing is written.
_WRITE_BOOKINGS = """
    CREATE FUNCTION holdfast_write_bookings(epochs json, batch json, keys json, cells json, counts json)
    RETURNS TABLE (made_id uuid, made_number bigint) LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    DECLARE
        done bigint;
    BEGIN
        PERFORM FROM events JOIN json_to_recordset(epochs) AS said(event_id text, epoch bigint)
                  ON (events.id, events.epoch) = (said.event_id, said.epoch)
          ORDER BY events.id FOR KEY SHARE OF events;
        GET DIAGNOSTICS done = ROW_COUNT;
        IF done < json_array_length(epochs) THEN
            RAISE EXCEPTION 'an epoch is over' USING ERRCODE = 'HF001';
        END IF;

        RETURN QUERY SELECT made_id, made_number FROM holdfast_insert_bookings(batch);
        GET DIAGNOSTICS done = ROW_COUNT;
        IF done < json_array_length(batch) THEN
            RAISE EXCEPTION 'a booking is there, or refused' USING ERRCODE = 'HF001';
        END IF;

        IF json_array_length(keys) > 0 THEN
            INSERT INTO idempotency (scope, body_digest, booking_id, created_at)
            SELECT decode(scope, 'base64'), decode(body_digest, 'base64'), booking_id, now()
              FROM json_to_recordset(keys) AS given(scope text, body_digest text, booking_id uuid)
            ON CONFLICT DO NOTHING;
            GET DIAGNOSTICS done = ROW_COUNT;
            IF done < json_array_length(keys) THEN
                RAISE EXCEPTION 'a key is there' USING ERRCODE = 'HF001';
            END IF;
        END IF;

        IF json_array_length(cells) > 0 THEN
            INSERT INTO claims (event_id, seat, leg, booking_id)
            SELECT * FROM json_to_recordset(cells) AS given(event_id text, seat int, leg smallint, booking_id uuid)
            ON CONFLICT DO NOTHING;
            GET DIAGNOSTICS done = ROW_COUNT;
            IF done < json_array_length(cells) THEN
                RAISE EXCEPTION 'a seat is taken' USING ERRCODE = 'HF001';
            END IF;
        END IF;

        IF json_array_length(counts) > 0 THEN
            PERFORM FROM usage JOIN json_to_recordset(counts)
                              AS more(event_id text, section smallint, leg smallint, quantity int)
                           USING (event_id, section, leg)
              WHERE sold + quantity <= capacity
              ORDER BY event_id, section, leg FOR NO KEY UPDATE OF usage;
            GET DIAGNOSTICS done = ROW_COUNT;
            IF done < json_array_length(counts) THEN
                RAISE EXCEPTION 'a section is full' USING ERRCODE = 'HF001';
            END IF;
            UPDATE usage SET sold = sold + quantity
              FROM json_to_recordset(counts) AS more(event_id text, section smallint, leg smallint, quantity int)
             WHERE (usage.event_id, usage.section, usage.leg) = (more.event_id, more.section, more.leg);
        END IF;
    END $$
"""


def upgrade() -> None:
    op.execute(_INSERT_BOOKINGS)
    op.execute(_WRITE_BOOKINGS)
