"""The usual batch of bookings in one call, again: what is in its way ends it by itself (docs/decisions/0039).

``holdfast_write_bookings`` of 0010 stays for processes of the version before, which serve on while they are replaced.
"""

from alembic import op

revision = "0011"
down_revision = "0010"

# Statement by statement, in the order of locks of persistence/ledger_batch.py: each sees what the locks before it have
# waited for. Whatever is not as usual ends the whole call, with HF001 or a unique violation, and nothing is written.
# Rows are counted all the same: an operator's trigger may leave one out without an error.
# Rows come in the order in which they are to be locked, and are inserted in it: there is nothing but a scan in between.
_WRITE_USUAL_BOOKINGS = """
    CREATE FUNCTION holdfast_write_usual_bookings(lanes int[], epochs json, ids uuid[], batch json, keys json,
                                                  cells json, counts json)
    RETURNS TABLE (made_id uuid, made_number bigint) LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    DECLARE
        done bigint;
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(7201, lane) FROM unnest(lanes) AS lane;
        PERFORM FROM events JOIN json_to_recordset(epochs) AS said(event_id text, epoch bigint)
                  ON (events.id, events.epoch) = (said.event_id, said.epoch)
          ORDER BY events.id FOR KEY SHARE OF events;
        GET DIAGNOSTICS done = ROW_COUNT;
        IF done < json_array_length(epochs) THEN
            RAISE EXCEPTION 'an epoch is over' USING ERRCODE = 'HF001';
        END IF;

        PERFORM FROM refused_bookings WHERE id = ANY (ids);
        IF FOUND THEN
            RAISE EXCEPTION 'a booking is refused' USING ERRCODE = 'HF001';
        END IF;

        RETURN QUERY
        WITH given AS MATERIALIZED (
            SELECT * FROM json_to_recordset(batch) AS said(
                       id uuid, event_id text, customer_id text, epoch bigint, first_leg smallint, last_leg smallint,
                       places text, items text, from_stop text, to_stop text, price text, amount bigint, currency text,
                       exclusive boolean, sealed text, status text, created_at timestamptz, updated_at timestamptz,
                       confirmed_at timestamptz, expires_at timestamptz, actor text, role text, request_id text)
        ), made AS (
            INSERT INTO bookings (payment_status, version, id, event_id, customer_id, epoch, first_leg, last_leg,
                                  places, items, from_stop, to_stop, price, amount, currency, exclusive, sealed,
                                  status, created_at, updated_at, confirmed_at, expires_at)
            SELECT 'none', 1, id, event_id, customer_id, epoch, first_leg, last_leg, places, items::jsonb, from_stop,
                   to_stop, price::jsonb, amount, currency, exclusive, decode(sealed, 'base64'), status, created_at,
                   updated_at, confirmed_at, expires_at
              FROM given
            RETURNING *
        ), recorded AS (
            INSERT INTO history (booking_id, version, to_status, actor, role, at, request_id)
            SELECT id, 1, status, actor, role, updated_at, request_id FROM given
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
        GET DIAGNOSTICS done = ROW_COUNT;
        IF done < cardinality(ids) THEN
            RAISE EXCEPTION 'a booking is left out' USING ERRCODE = 'HF001';
        END IF;

        IF keys IS NOT NULL THEN
            INSERT INTO idempotency (scope, body_digest, booking_id, created_at)
            SELECT decode(scope, 'base64'), decode(body_digest, 'base64'), booking_id, now()
              FROM json_to_recordset(keys) AS given(scope text, body_digest text, booking_id uuid);
            GET DIAGNOSTICS done = ROW_COUNT;
            IF done < json_array_length(keys) THEN
                RAISE EXCEPTION 'a key is left out' USING ERRCODE = 'HF001';
            END IF;
        END IF;

        IF cells IS NOT NULL THEN
            INSERT INTO claims (event_id, seat, leg, booking_id)
            SELECT * FROM json_to_recordset(cells) AS given(event_id text, seat int, leg smallint, booking_id uuid);
            GET DIAGNOSTICS done = ROW_COUNT;
            IF done < json_array_length(cells) THEN
                RAISE EXCEPTION 'a seat is left out' USING ERRCODE = 'HF001';
            END IF;
        END IF;

        IF counts IS NOT NULL THEN
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
    op.execute(_WRITE_USUAL_BOOKINGS)
