-- Jobs that wait for their next attempt can all be run now, once what they failed at is back.
ALTER TABLE bulk_actions
    DROP CONSTRAINT bulk_actions_action_known,
    ADD CONSTRAINT bulk_actions_action_known CHECK (action IN ('retry', 'run', 'cancel', 'delete'));

-- The last of them is neither disabled nor given another role.
CREATE INDEX operators_active_admins ON operators (id) WHERE role = 'admin' AND disabled_at IS NULL;
