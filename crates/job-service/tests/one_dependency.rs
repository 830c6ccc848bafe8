//! What an application names of the API, it names through job-service alone: beside it there is only serde here.

use job_service::config::{Env, Fault as ConfigFault, Reader, TimeZone};
use job_service::deadpool_postgres::Object;
use job_service::tokio_postgres::Client;
use job_service::{
    BuildError, CallbackSecrets, ConfigError, Db, Fault, NotReady, SchedulerConfig, SchedulerError, SchedulerStopped,
    ServerConfig, ServerError, Service, ServiceConfig, ServiceError, Shutdown, SqlState, Stopped, Worker, WorkerError,
    WorkerStopped, migrate,
};
use job_testkit::TestDb;

/// What a service says of its end, in an application's words.
fn told(result: Result<Stopped, ServiceError>) -> String {
    match result {
        Ok(Stopped {
            worker: WorkerStopped { orphaned: 0, .. },
            scheduler: SchedulerStopped { orphaned: 0, .. },
            ..
        }) => "in order".to_owned(),
        Ok(_) => "something is left".to_owned(),
        Err(ServiceError::Server(ServerError::Bind { port, .. })) => format!("port {port}"),
        Err(ServiceError::Worker(WorkerError::Db(error)) | ServiceError::Scheduler(SchedulerError::Db(error))) => {
            format!("database: {:?}", error.sql_state().map(SqlState::code))
        }
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn every_part_can_be_set_and_every_end_be_told() {
    let postgres = TestDb::empty().await;
    let db = Db::from_url(postgres.url()).unwrap();
    let connection: Object = db.connection().await.unwrap();
    let client: &Client = &connection;
    client.batch_execute("SELECT 1").await.unwrap();
    drop(connection);
    assert!(matches!(db.ready().await, Err(NotReady::Schema { .. })));
    let _ = migrate(&db).await.unwrap();

    let mut scheduler = SchedulerConfig::default();
    scheduler.time_zone = TimeZone::UTC;
    let mut server = ServerConfig::default();
    server.port = 0;
    server.secrets = CallbackSecrets::new("a-secret-of-our-own");
    let stop = Shutdown::new();
    stop.trigger();
    let service = Service::builder(db.clone()).server(server.clone()).scheduler(scheduler).build();
    assert_eq!(told(service.run(stop.clone()).await), "in order");

    let taken = std::net::TcpListener::bind("[::]:0").unwrap();
    server.port = taken.local_addr().unwrap().port();
    let service = Service::builder(db).server(server.clone()).build();
    assert_eq!(told(service.run(stop).await), format!("port {}", server.port));
}

#[test]
fn what_is_wrong_with_settings_has_names() {
    let error: BuildError = Worker::builder(Db::from_url("postgres://localhost/shop").unwrap()).build().unwrap_err();
    let faults: &[Fault] = &error.faults;
    assert_eq!(faults[0].setting, "task");
    let env = std::collections::BTreeMap::from([("JOBS_CONCURRENCY", "0")]);
    let env: &dyn Env = &env;
    let error: ConfigError = ServiceConfig::from_env(env).unwrap_err();
    let faults: &[ConfigFault] = &error.faults;
    assert_eq!(faults[0].name, "JOBS_CONCURRENCY");
    let mut reader = Reader::new(env);
    assert_eq!(SchedulerConfig::read(&mut reader).scheduler_id, "scheduler-0");
}
