#![doc = include_str!("../README.md")]

mod callback;
mod configuration;
mod schedule_info;
mod task_to_url;

pub use callback::callback;
pub use configuration::configuration;
pub use schedule_info::schedule_info;
pub use task_to_url::task_to_url;

/// Takes any bytes; panics when something that must hold does not.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program in `fuzz/fuzz_targets` and of its directory in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("callback", callback),
    ("configuration", configuration),
    ("schedule_info", schedule_info),
    ("task_to_url", task_to_url),
];
