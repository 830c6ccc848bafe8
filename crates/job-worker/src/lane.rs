//! Lane: a share of a worker's tasks with a limit of its own. The worker claims for each lane by itself.

use std::sync::Arc;

use crate::config::WorkerConfig;

/// Which tasks to claim, and how many of their jobs may run at once.
pub(crate) struct LaneConfig {
    pub(crate) limit: usize,
    pub(crate) tasks: TaskFilter,
}

/// The tasks of a claim.
pub(crate) struct TaskFilter {
    /// Only these; None: any.
    pub(crate) only: Option<Arc<[String]>>,
    /// Not these.
    pub(crate) except: Arc<[String]>,
}

/// The lanes of a configuration: one for each task with a limit, and one for all others.
pub(crate) fn lanes(config: &WorkerConfig) -> Vec<LaneConfig> {
    let limited = |task: &String| config.task_concurrency.contains_key(task);
    let none: Arc<[String]> = Arc::default();
    let others = match config.tasks.as_filter() {
        None => TaskFilter { only: None, except: config.task_concurrency.keys().cloned().collect() },
        Some(tasks) => {
            let only = Some(tasks.iter().filter(|task| !limited(task)).cloned().collect());
            TaskFilter { only, except: none.clone() }
        }
    };
    let mut lanes = Vec::new();
    // When every task has a lane of its own, there is nothing to claim for the others.
    if others.only.as_ref().is_none_or(|tasks| !tasks.is_empty()) {
        let limit = config.task_settings.rest.concurrency.unwrap_or(config.concurrency);
        lanes.push(LaneConfig { limit: limit.min(config.concurrency), tasks: others });
    }
    for (task, limit) in &config.task_concurrency {
        if config.tasks.include(task) {
            let tasks = TaskFilter { only: Some(Arc::new([task.clone()])), except: none.clone() };
            lanes.push(LaneConfig { limit: *limit, tasks });
        }
    }
    lanes
}
