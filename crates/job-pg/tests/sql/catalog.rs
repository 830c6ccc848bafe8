//! What is in a schema, as text that can be compared.

use crate::sql::support::Session;

/// Everything of the jobs schema, and of that of its internal functions, but refinery's history: columns, constraints,
/// indexes, functions, triggers, rights, policies and comments. Schema names are written without quotes, as the two
/// ways into a database quote them differently.
pub(crate) async fn describe(s: &Session, schema: &str) -> String {
    let parts = [
        "SELECT 'column', c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                pg_get_expr(d.adbin, d.adrelid)
           FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, a.attnum)
          WHERE c.relnamespace = $schema AND c.relkind <> 'i' AND a.attnum > 0 AND $ours",
        "SELECT 'relation', c.relname, c.relkind, c.relpersistence, c.relrowsecurity, pg_get_userbyid(c.relowner),
                array_to_string(ARRAY(SELECT x::text FROM unnest(c.relacl) x ORDER BY 1), ' '), obj_description(c.oid, 'pg_class')
           FROM pg_class c WHERE c.relnamespace = $schema AND $ours",
        "SELECT 'constraint', c.relname, k.conname, pg_get_constraintdef(k.oid)
           FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE c.relnamespace = $schema AND $ours",
        "SELECT 'index', c.relname, pg_get_indexdef(i.indexrelid)
           FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = $schema AND $ours",
        "SELECT 'trigger', c.relname, pg_get_triggerdef(t.oid), t.tgenabled
           FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = $schema AND NOT t.tgisinternal",
        "SELECT 'function', pg_get_functiondef(p.oid), pg_get_userbyid(p.proowner),
                array_to_string(ARRAY(SELECT x::text FROM unnest(p.proacl) x ORDER BY 1), ' '), obj_description(p.oid, 'pg_proc')
           FROM pg_proc p WHERE p.pronamespace IN ($schema, $internal)",
        "SELECT 'schema', n.nspname, array_to_string(ARRAY(SELECT x::text FROM unnest(n.nspacl) x ORDER BY 1), ' '),
                replace(obj_description(n.oid, 'pg_namespace'), quote_ident('$name'), '$name')
           FROM pg_namespace n WHERE n.oid IN ($schema, $internal)",
        "SELECT 'policy', c.relname, p.polname, p.polcmd, p.polpermissive, pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid),
                ARRAY(SELECT r::regrole::text FROM unnest(p.polroles) r ORDER BY 1)
           FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.relnamespace = $schema",
        "SELECT 'type', t.typname FROM pg_type t WHERE t.typnamespace = $schema AND t.typname !~ 'schema_history'",
    ];
    let mut lines = Vec::new();
    for part in parts {
        let ours = "c.relname !~ '^schema_history'";
        let sql = part
            .replace("$schema", &format!("'\"{schema}\"'::regnamespace"))
            .replace("$internal", &format!("'\"{schema}_internal\"'::regnamespace"))
            .replace("$name", schema)
            .replace("$ours", ours);
        let shown = s.show(&format!("SELECT x::text FROM ({sql}) x ORDER BY 1")).await;
        assert_ne!(shown, "", "the schema has something for: {part}");
        let mut shown = shown.replace("\"\"", "\"");
        for name in [schema, &format!("{schema}_internal")] {
            shown = shown.replace(&format!("\"{name}\""), name);
        }
        lines.push(shown);
    }
    lines.join("\n")
}

/// Names of everything outside PostgreSQL's own schemas, and each function's text: enough to see that nothing changed.
pub(crate) async fn everything(s: &Session) -> String {
    s.show(
        "SELECT x::text FROM (
             SELECT 'schema' AS kind, nspname::text AS a, '' AS b, '' AS c FROM pg_namespace WHERE nspname !~ '^pg_'
             UNION ALL SELECT 'relation', relnamespace::regnamespace::text, relname::text, concat_ws(' ', relkind, relacl)
                         FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_|^information_schema'
             UNION ALL SELECT 'function', pronamespace::regnamespace::text, oid::regprocedure::text, prosrc || coalesce(proacl::text, '')
                         FROM pg_proc WHERE pronamespace::regnamespace::text !~ '^pg_|^information_schema'
             UNION ALL SELECT 'extension', extname::text, extversion, '' FROM pg_extension
         ) x ORDER BY 1",
    )
    .await
}

/// The differences between two descriptions, line by line: a whole description says too much when a test fails.
pub(crate) fn differences(left: &str, right: &str) -> Vec<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (left.lines().collect(), right.lines().collect());
    let missing = a.iter().filter(|line| !b.contains(line)).map(|line| format!("- {line}"));
    missing.chain(b.iter().filter(|line| !a.contains(line)).map(|line| format!("+ {line}"))).collect()
}
