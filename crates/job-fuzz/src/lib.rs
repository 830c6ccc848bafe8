#![doc = include_str!("../README.md")]

mod answer;
mod callback;
mod configuration;
mod encoding;
mod message;
mod schedule_info;
mod task_to_url;

pub use answer::answer;
pub use callback::callback;
pub use configuration::configuration;
pub use encoding::encoding;
pub use schedule_info::schedule_info;
pub use task_to_url::task_to_url;

/// Takes any bytes; panics when something that must hold does not.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program in `fuzz/fuzz_targets` and of its directory in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("answer", answer),
    ("callback", callback),
    ("configuration", configuration),
    ("encoding", encoding),
    ("schedule_info", schedule_info),
    ("task_to_url", task_to_url),
];
