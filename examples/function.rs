//! A function over HTTP, in a process of its own: any worker dispatches the task `greet` to it.
//!
//! ```text
//! PORT=8082 function
//! curl localhost:8082/greet -d '{"name": "Ada"}'
//! ```

use job_fn::{Context, FunctionError};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Greeting {
    name: String,
}

async fn greet(context: Context, greeting: Greeting) -> Result<Value, FunctionError> {
    if greeting.name.is_empty() {
        return Err(FunctionError::status(400, "Missing required field 'name'"));
    }
    println!("hello {}, job {:?}", greeting.name, context.job_id);
    Ok(json!({ "complete": true }))
}

fn main() -> std::process::ExitCode {
    job_fn::main(greet)
}
