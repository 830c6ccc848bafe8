//! What a job of this task says, and what it must not leave out.

use serde_json::Value;

/// A field that is missing, by the name that the contract gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Missing required field: {0}")]
pub struct Missing(pub &'static str);

/// A payload that can be worked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The recipient, as given.
    pub email: String,
    /// Which e-mail.
    pub kind: Kind,
}

/// The e-mails that this function writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An invitation.
    Invite {
        /// Proves the invitation.
        invite_token: String,
        /// The user who invites.
        sender_id: String,
        /// Whether it is to an organisation (`invite_type` 2), not to the application.
        to_org: bool,
    },
    /// A password reset.
    ForgotPassword {
        /// The user whose password it is.
        user_id: String,
        /// Proves the request.
        reset_token: String,
    },
    /// A verification of an address.
    Verification {
        /// The address's id.
        email_id: String,
        /// Proves that the mail arrived.
        verification_token: String,
    },
}

impl Kind {
    /// The payload's `email_type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Invite { .. } => "invite_email",
            Self::ForgotPassword { .. } => "forgot_password",
            Self::Verification { .. } => "email_verification",
        }
    }
}

impl Payload {
    /// Reads a payload; the first field that is missing is the error.
    pub fn read(payload: &Value) -> Result<Self, Missing> {
        let field = |name: &str| text(payload.get(name)?);
        let email_type = field("email_type").ok_or(Missing("email_type"))?;
        if !matches!(email_type.as_str(), "invite_email" | "forgot_password" | "email_verification") {
            return Err(Missing("email_type"));
        }
        let email = field("email").ok_or(Missing("email"))?;
        let both = |first: &str, second: &str, name| field(first).zip(field(second)).ok_or(Missing(name));
        let kind = match email_type.as_str() {
            "invite_email" => {
                let (invite_token, sender_id) = both("invite_token", "sender_id", "invite_token_or_sender_id")?;
                Kind::Invite { invite_token, sender_id, to_org: field("invite_type").as_deref() == Some("2") }
            }
            "forgot_password" => {
                let (user_id, reset_token) = both("user_id", "reset_token", "user_id_or_reset_token")?;
                Kind::ForgotPassword { user_id, reset_token }
            }
            _ => {
                let name = "email_id_or_verification_token";
                let (email_id, verification_token) = both("email_id", "verification_token", name)?;
                Kind::Verification { email_id, verification_token }
            }
        };
        Ok(Self { email, kind })
    }
}

/// A value as text: numbers too, since triggers write some columns as numbers and some as text. An empty text, like
/// null, is no value.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_missing_field_is_named_in_the_order_type_email_rest() {
        for (payload, field) in [
            (json!({}), "email_type"),
            (json!(null), "email_type"),
            (json!([1]), "email_type"),
            (json!({"email_type": "newsletter"}), "email_type"),
            (json!({"email_type": "", "email": "a@b.co"}), "email_type"),
            (json!({"email_type": "invite_email"}), "email"),
            (json!({"email_type": "invite_email", "email": null}), "email"),
            (json!({"email_type": "invite_email", "email": "a"}), "invite_token_or_sender_id"),
            (json!({"email_type": "invite_email", "email": "a", "invite_token": "t"}), "invite_token_or_sender_id"),
            (json!({"email_type": "invite_email", "email": "a", "sender_id": "s"}), "invite_token_or_sender_id"),
            (json!({"email_type": "forgot_password", "email": "a", "user_id": "u"}), "user_id_or_reset_token"),
            (json!({"email_type": "forgot_password", "email": "a", "reset_token": "t"}), "user_id_or_reset_token"),
            (
                json!({"email_type": "email_verification", "email": "a", "email_id": "e"}),
                "email_id_or_verification_token",
            ),
            (
                json!({"email_type": "email_verification", "email": "a", "verification_token": {}}),
                "email_id_or_verification_token",
            ),
        ] {
            assert_eq!(Payload::read(&payload), Err(Missing(field)), "{payload}");
        }
    }

    #[test]
    fn an_invitation_is_to_an_organisation_when_its_type_is_two() {
        for (invite_type, org) in
            [(json!(2), true), (json!("2"), true), (json!(1), false), (json!(null), false), (json!("org"), false)]
        {
            let payload = json!({"email_type": "invite_email", "email": "a", "invite_token": "t", "sender_id": "s",
                "invite_type": invite_type});
            let read = Payload::read(&payload).unwrap();
            assert!(matches!(read.kind, Kind::Invite { to_org, .. } if to_org == org), "{payload}");
        }
    }
}
