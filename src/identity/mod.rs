//! Who may call us, and with what we call the backends.

use std::sync::Arc;

use secrecy::SecretString;

/// Who may call; `[callers]`.
#[derive(Clone, Debug, Default)]
pub struct CallerSettings {
    /// Anyone may call.
    pub anonymous: bool,
    /// Named keys.
    pub keys: Vec<CallerKey>,
    /// Origins of web pages that may call (`https://app.example`), besides none.
    pub origins: Vec<String>,
}

/// One caller's key.
#[derive(Clone, Debug)]
pub struct CallerKey {
    /// For log and metrics.
    pub name: Arc<str>,
    /// The key itself.
    pub key: SecretString,
}

/// With what a backend is called.
#[derive(Clone, Debug)]
pub enum Credential {
    /// `api-key: …`
    ApiKey(SecretString),
}
