//! Messages kept in memory, for tests.

use std::sync::{Arc, Mutex, PoisonError};

use crate::message::{Message, Prepared};

/// What a [`crate::Mailer::memory`] has "sent".
#[derive(Debug, Clone, Default)]
pub struct Outbox(Arc<Mutex<Vec<Message>>>);

impl Outbox {
    /// Every message, in the order of sending, as it would have gone out.
    pub fn messages(&self) -> Vec<Message> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) struct Memory(pub(crate) Outbox);

impl Memory {
    pub(crate) fn send(&self, message: &Prepared) {
        let message = Message {
            from: Some(message.from.to_string()),
            to: message.to.to_string(),
            subject: message.subject.clone(),
            html: message.html.clone(),
            text: message.text.clone(),
            reply_to: message.reply_to.as_ref().map(ToString::to_string),
        };
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }
}
