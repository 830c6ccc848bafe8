//! Databases that are not UTF-8: refused by migrate, by the extension and by the services, with nothing changed.

use job_pg::NotReady;
use job_testkit::{TestDb, env};
use job_utils::error::chain;
use job_utils::shutdown::Shutdown;

use crate::sql::catalog::{differences, everything};
use crate::sql::support::{Session, handle, migrate_schema};

/// An empty database of this encoding, and its URL.
async fn database_of(db: &TestDb, admin: &Session, encoding: &str) -> (String, String) {
    let name = format!("{}_{}", db.name(), encoding.to_lowercase());
    admin
        .run(&format!("CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
        .await;
    let url = db.url().replace(db.name(), &name);
    (name, url)
}

#[tokio::test]
async fn a_database_that_is_not_utf8_is_refused_and_nothing_is_changed() {
    let db = TestDb::empty().await;
    let admin = Session::open(&db).await;
    for encoding in ["LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP"] {
        let (name, url) = database_of(&db, &admin, encoding).await;
        let s = Session::open_url(&url).await;
        let before = everything(&s).await;
        let clear = |message: &str| {
            assert!(message.contains(encoding) && message.contains("UTF8"), "{encoding}: {message}");
        };

        let error = migrate_schema(&url, "app_jobs").await.unwrap_err();
        clear(&error.to_string());
        assert!(error.to_string().contains(&name), "{error}");
        // So is one whose schema an earlier version has made, at each start: waiting cannot mend it.
        let services = handle(&url, "app_jobs");
        match services.ready().await {
            Err(NotReady::Encoding(reason)) => clear(&reason),
            other => panic!("{encoding}: {other:?}"),
        }
        let error = services.wait_until_ready(&Shutdown::new()).await.unwrap_err();
        clear(&chain(&error));
        assert!(chain(&error).contains("PGDATABASE") && !error.is_transient(), "{error:?}");
        if env::extension_installed("a_database_that_is_not_utf8_is_refused_and_nothing_is_changed") {
            let error = s.error("CREATE EXTENSION \"pgpm-database-jobs\"").await;
            // The server itself cannot read the script where a character may have several bytes that are none of UTF-8.
            if encoding != "EUC_JP" {
                clear(error.message());
                assert!(error.hint().is_some_and(|hint| hint.contains("UTF8")), "{error:?}");
            }
        }
        assert_eq!(differences(&before, &everything(&s).await), Vec::<String>::new(), "{encoding}");
        drop((s, services));
        admin.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}
