-- fair(): whether tenants are served fairly.
EXISTS (SELECT FROM @extschema@.gates g WHERE g.kind = 'tenant' AND g.name = '*' AND g.fair)
