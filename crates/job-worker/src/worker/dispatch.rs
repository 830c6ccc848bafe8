//! What the builder is told of functions over HTTP.

use job_utils::config::parse_http_url;
use job_utils::wire::callback::callback_url;
use job_utils::wire::signature::CallbackSecrets;

use super::{WorkerBuilder, fault};

/// With the feature `dispatch`, which is on by default.
impl<S: Send + Sync + 'static> WorkerBuilder<S> {
    /// Dispatches tasks without a handler over HTTP: to the functions below the base URL `functions`, which call back
    /// to `callback`, where a callback server is.
    pub fn dispatch(mut self, functions: &str, callback: &str) -> Self {
        self.said.push("dispatch");
        match parse_http_url(functions) {
            Ok(base) => self.config.gateway.base = base,
            Err(message) => self.faults.push(fault("dispatch: functions", message)),
        }
        match callback_url(callback) {
            Ok(url) => self.config.callback_url = url,
            Err(message) => self.faults.push(fault("dispatch: callback", message)),
        }
        self.dispatch_as_configured()
    }

    /// The same by what [`WorkerBuilder::config`] says of them.
    pub fn dispatch_as_configured(mut self) -> Self {
        self.dispatches = true;
        self
    }

    /// Signs the callback URLs of dispatched jobs, with the secrets of the callback server.
    ///
    /// ```no_run
    /// # use job_worker::{CallbackSecrets, Db, Worker};
    /// # fn example(db: Db, secret: String) -> Result<(), Box<dyn std::error::Error>> {
    /// let secrets = CallbackSecrets::new(secret).ok_or("there is no secret")?;
    /// let worker = Worker::builder(db).dispatch("http://functions:8080", "http://shop:12345").callback_secrets(secrets);
    /// # Ok(())
    /// # }
    /// ```
    pub fn callback_secrets(mut self, secrets: CallbackSecrets) -> Self {
        self.said.push("callback_secrets");
        self.config.secrets = Some(secrets);
        self
    }
}
