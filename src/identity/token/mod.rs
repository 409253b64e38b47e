//! Tokens with which backends are called, where there are no keys.
//!
//! Owns: where a token comes from ([`TokenSource`]), asking for it (`fetch`, `azure_cli`), when to ask again
//! (`schedule`, PURE), and the one place where the present token lies ([`Slot`]). It does not know backends: `app`
//! says which backend uses which slot, `proxy` reads the slot.
//!
//! Four HTTP shapes and one command are asked for here by hand. The official crate (`azure_identity` 1.0) brings 62
//! to 81 further crates and a second HTTP client, refreshes on the path of a request and inside a write lock, refuses
//! requests when a refresh fails although the old token is still valid, and knows no refresh at half life
//! (azure-openai.md 6.4). Here a token is asked for in the background, once for all backends that use the same
//! source, and the old one is used for as long as it is valid.

mod azure_cli;
mod fetch;
mod keeper;
mod schedule;
mod slot;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

pub use self::fetch::fetch;
pub use self::keeper::{Changed, Keeper};
pub use self::slot::{Held, Slot, SlotState};
use crate::net::upstream::Origin;

/// One token that is needed.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenSettings {
    /// Where it comes from.
    pub source: TokenSource,
    /// For what, e.g. `https://cognitiveservices.azure.com/.default`.
    pub scope: Arc<str>,
}

/// Where tokens come from (azure-openai.md 6.1).
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// The endpoint that Container Apps, App Service and Functions give to their apps.
    Platform {
        /// `IDENTITY_ENDPOINT`, its path as the origin's prefix.
        endpoint: Origin,
        /// `IDENTITY_HEADER`
        header: SecretString,
        /// Of a user-assigned identity.
        client_id: Option<String>,
    },
    /// The metadata service of virtual machines.
    Imds {
        /// Usually `http://169.254.169.254`.
        endpoint: Origin,
        /// Of a user-assigned identity.
        client_id: Option<String>,
    },
    /// A file that the platform (AKS) renews, exchanged for a token.
    Workload {
        /// Usually `https://login.microsoftonline.com`.
        authority: Origin,
        /// Tenant.
        tenant_id: String,
        /// Application.
        client_id: String,
        /// Read anew each time.
        file: PathBuf,
    },
    /// An application's secret.
    ClientSecret {
        /// Usually `https://login.microsoftonline.com`.
        authority: Origin,
        /// Tenant.
        tenant_id: String,
        /// Application.
        client_id: String,
        /// Its secret.
        secret: SecretString,
    },
    /// Whoever has signed in with `az login` on this machine.
    AzureCli {
        /// Of several tenants.
        tenant_id: Option<String>,
    },
    /// The metadata service if there is one, else `az`: nothing says where we run.
    Probed {
        /// Usually `http://169.254.169.254`.
        endpoint: Origin,
        /// Of a user-assigned identity.
        client_id: Option<String>,
        /// Of several tenants.
        tenant_id: Option<String>,
    },
}

impl TokenSource {
    /// What it is called in settings and log.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Platform { .. } => "managed identity of the platform",
            Self::Imds { .. } => "managed identity of the machine",
            Self::Workload { .. } => "workload identity",
            Self::ClientSecret { .. } => "client secret",
            Self::AzureCli { .. } => "Azure CLI",
            Self::Probed { .. } => "managed identity of the machine, else Azure CLI",
        }
    }
}

impl PartialEq for TokenSource {
    /// Secrets by their content: after a reload the same source keeps its token.
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &SecretString, b: &SecretString| a.expose_secret() == b.expose_secret();
        match (self, other) {
            (
                Self::Platform { endpoint, header, client_id },
                Self::Platform { endpoint: endpoint_b, header: header_b, client_id: client_b },
            ) => endpoint == endpoint_b && same(header, header_b) && client_id == client_b,
            (
                Self::Imds { endpoint, client_id },
                Self::Imds { endpoint: endpoint_b, client_id: client_b },
            ) => endpoint == endpoint_b && client_id == client_b,
            (
                Self::Workload { authority, tenant_id, client_id, file },
                Self::Workload {
                    authority: authority_b,
                    tenant_id: tenant_b,
                    client_id: client_b,
                    file: file_b,
                },
            ) => (authority, tenant_id, client_id, file) == (authority_b, tenant_b, client_b, file_b),
            (
                Self::ClientSecret { authority, tenant_id, client_id, secret },
                Self::ClientSecret {
                    authority: authority_b,
                    tenant_id: tenant_b,
                    client_id: client_b,
                    secret: secret_b,
                },
            ) => {
                (authority, tenant_id, client_id) == (authority_b, tenant_b, client_b)
                    && same(secret, secret_b)
            }
            (Self::AzureCli { tenant_id }, Self::AzureCli { tenant_id: tenant_b }) => tenant_id == tenant_b,
            (
                Self::Probed { endpoint, client_id, tenant_id },
                Self::Probed { endpoint: endpoint_b, client_id: client_b, tenant_id: tenant_b },
            ) => (endpoint, client_id, tenant_id) == (endpoint_b, client_b, tenant_b),
            _ => false,
        }
    }
}

/// A token and how long it lives from now.
pub struct Fetched {
    /// The token.
    pub token: SecretString,
    /// From now.
    pub lifetime: Duration,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// Why there is no token. No text of these holds a secret.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum TokenError {
    /// Nobody answers.
    #[error("the token service cannot be reached: {0}")]
    Unreachable(String),
    /// It takes too long.
    #[error("the token service does not answer in time")]
    TimedOut,
    /// It says no; with its own words, cut.
    #[error("the token service answers {status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Refused {
        /// The status.
        status: u16,
        /// What it says.
        said: String,
    },
    /// It says yes, but not what.
    #[error("the token service's answer is not understood: {0}")]
    Malformed(&'static str),
    /// The federated token's file.
    #[error("the file of the federated token cannot be read: {0}")]
    File(String),
    /// `az`
    #[error("az account get-access-token: {0}")]
    AzureCli(String),
}
