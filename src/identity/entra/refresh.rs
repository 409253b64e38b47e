//! Fetching a tenant's keys, in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::claims::Rules;
use super::keys::{Configuration, EntraKeys, KeySet};
use super::{Allow, EntraSettings};
use crate::identity::document::{Location, Unfetched};
use crate::net::upstream::Tls;

/// How often keys are fetched.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Without being asked to. Entra ID announces new keys a day ahead.
    pub refresh: Duration,
    /// At most, however many unknown keys are asked for.
    pub least: Duration,
    /// After a failure; doubles up to `least`.
    pub first_retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(6 * 3600),
            least: Duration::from_secs(60),
            first_retry: Duration::from_secs(1),
        }
    }
}

/// Fetches a tenant's keys now, and again from time to time and when one is missing. Ends when dropped. What was
/// fetched stays when a later fetch fails; success and failure are logged when they change.
pub async fn keep_fresh(keys: Arc<EntraKeys>, tls: Tls, pace: Pace) {
    let mut failures = 0_u32;
    loop {
        let pause = match fetch(&keys, &tls).await {
            Ok(set) => {
                let count = set.len();
                if keys.replace(set) || failures > 0 {
                    tracing::info!(tenant = &*keys.tenant, keys = count, "the keys of Entra ID were fetched");
                }
                failures = 0;
                // Replicas that began together need not fetch together.
                pace.refresh.mul_f64(0.9 + 0.2 * fastrand::f64())
            }
            Err(error) => {
                if failures == 0 {
                    let had = keys.any();
                    let meanwhile =
                        if had { "those from before are used on" } else { "no token can be checked" };
                    tracing::warn!(
                        tenant = &*keys.tenant,
                        error = &error as &dyn std::error::Error,
                        meanwhile,
                        "the keys of Entra ID cannot be fetched"
                    );
                }
                failures = failures.saturating_add(1);
                pace.first_retry.saturating_mul(1 << failures.min(16).saturating_sub(1)).min(pace.least)
            }
        };
        let unasked = pause.min(pace.least);
        keys.settle(true);
        sleep(unasked).await;
        keys.settle(false);
        tokio::select! {
            () = sleep(pause.saturating_sub(unasked)) => {}
            () = keys.wanted.notified() => {}
        }
    }
}

async fn fetch(keys: &EntraKeys, tls: &Tls) -> Result<KeySet, Unfetched> {
    let (tenant, authority) = (&keys.tenant, &keys.authority);
    let configuration = format!("{authority}/{tenant}/v2.0/.well-known/openid-configuration");
    let configuration = Location::parse(&configuration).ok_or(Unfetched::Address)?.fetch(tls).await?;
    let configuration: Configuration =
        serde_json::from_slice(&configuration).map_err(|_| Unfetched::Form("no OpenID configuration"))?;
    let issuer = configuration.issuer.replace("{tenantid}", tenant);
    if !issuer.to_ascii_lowercase().ends_with(&format!("/{tenant}/v2.0").to_ascii_lowercase()) {
        return Err(Unfetched::Form("the OpenID configuration of another tenant"));
    }
    let document = Location::parse(&configuration.jwks_uri).ok_or(Unfetched::Address)?.fetch(tls).await?;
    let rules = Rules::new(&EntraSettings {
        tenant: tenant.to_string(),
        audiences: Vec::new(),
        allow: Allow::Any,
        authority: authority.to_string(),
    });
    KeySet::read(&document, issuer, &rules).ok_or(Unfetched::Form("no keys of this tenant"))
}
