//! What SQL says of a rule when it is inserted is what the scheduler will say: the same words, and nothing of a rule
//! that can be used.

use job_scheduler::timetable::{TimeZone, Timetable};

use super::support::{database, schedule};

/// Entries for one field; the last ones are wrong in every field, and some of the others in some.
const ENTRIES: [&str; 44] = [
    "*",
    "0",
    "1",
    "5",
    "007",
    "12",
    "23",
    "31",
    "59",
    "*/5",
    "*/1",
    "0-5",
    "1/2",
    "3-9/3",
    "1,2,3",
    "1-3,5-6",
    "jan",
    "FEB",
    "mon",
    "Sun",
    "mon-fri",
    "jan-mar",
    "?",
    "L",
    "l",
    "5L",
    "monL",
    "1#2",
    "fri#5",
    "7",
    "0-7",
    "1#0",
    "1#6",
    "#1",
    "60",
    "24",
    "32",
    "*/0",
    "5-1",
    "1,,2",
    "-1",
    "x",
    "1-",
    "99999999999999999999",
];

/// Whole rules, as JSON.
const RULES: [&str; 26] = [
    r#""* * * *""#,
    r#""* * * * * * *""#,
    r#""@daily""#,
    r#""@DAILY""#,
    r#"" @dayly""#,
    r#""0 0 1 1 8""#,
    r#"" 1  99 * * *""#,
    r#""2030-01-01T00:00:00Z""#,
    r#""Tue, 31 Dec 2030 10:00:00 GMT""#,
    r#""12/31/2030, 10:00:00 AM""#,
    "1900000000000",
    "{}",
    "true",
    "[1]",
    "null",
    r#"{"rule": null}"#,
    r#"{"rule": "0 25 * * *"}"#,
    r#"{"rule": {"hour": 25}}"#,
    r#"{"hour": 23, "minute": "59", "dayOfWeek": [1, 2]}"#,
    r#"{"month": 12}"#,
    r#"{"minute": 1.5}"#,
    r#"{"minute": 1.0}"#,
    r#"{"date": 0}"#,
    r#"{"rule": "\u0000"}"#,
    r#"{"rule": true}"#,
    r#"{"hour": -1}"#,
];

#[tokio::test]
async fn what_sql_says_of_a_rule_is_what_the_scheduler_says() {
    let db = database().await;
    let client = db.connect().await;
    let mut rules: Vec<String> = RULES.map(str::to_owned).to_vec();
    for fields in [5, 6] {
        for place in 0..fields {
            for entry in ENTRIES {
                let mut texts = vec!["*"; fields];
                texts[place] = entry;
                rules.push(serde_json::to_string(&texts.join(" ")).unwrap());
                rules.push(serde_json::json!({"rule": texts.join("  "), "tz": "Europe/Berlin"}).to_string());
            }
        }
    }
    let rows = client
        .query(
            "SELECT app_jobs_internal.schedule_fault(r::json) FROM unnest($1::text[]) WITH ORDINALITY AS u (r, n) ORDER BY n",
            &[&rules],
        )
        .await
        .unwrap();
    let mut told = 0;
    for (rule, row) in rules.iter().zip(rows) {
        let said: Option<String> = row.get(0);
        let scheduler = Timetable::from_json(rule, &TimeZone::UTC).err().map(|error| error.to_string());
        if said.is_some() {
            assert_eq!(said, scheduler, "{rule}");
            told += 1;
        } else if rule.contains('*') {
            assert_eq!(said, scheduler, "SQL says nothing of {rule}");
        }
    }
    assert!(told > 200, "{told} of {} rules are told of", rules.len());
}

#[tokio::test]
async fn an_invalid_rule_is_told_at_insert_by_its_row_and_not_by_an_error() {
    let db = database().await;
    let client = db.connect().await;
    let id = schedule(&client, "x", r#"{"rule": "0 25 * * *"}"#).await;
    let last_error = async || -> Option<String> {
        let row = client.query_one("SELECT last_error FROM app_jobs.scheduled_jobs WHERE id = $1", &[&id]).await;
        row.unwrap().get(0)
    };
    let wrong = r#"rule, hour: 25 is not within 0-23 (character 3 of "0 25 * * *")"#;
    assert_eq!(last_error().await.as_deref(), Some(wrong));
    for (rule, expected) in [
        (r#""* * * * *""#, None),
        (r#"{"rule": "0 25 * * *"}"#, Some(wrong)),
        (r#"{"hour": 23}"#, None),
        (r#"{"hour": 24}"#, Some("hour: 24 is not a whole number within 0-23")),
    ] {
        client
            .execute("UPDATE app_jobs.scheduled_jobs SET schedule_info = ($1::text)::json WHERE id = $2", &[&rule, &id])
            .await
            .unwrap();
        assert_eq!(last_error().await.as_deref(), expected, "{rule}");
    }
}
