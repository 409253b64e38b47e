//! The token of whoever has signed in with `az login`: for a developer's machine.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use super::{Fetched, TokenError};
use crate::telemetry::clock;

/// What `az` prints. `expiresOn`, without `_`, is in local time and of no use.
#[derive(Deserialize)]
struct Printed {
    #[serde(rename = "accessToken")]
    access_token: String,
    expires_on: u64,
}

/// Asks `az` (2.54 or later, which tells `expires_on`).
pub(super) async fn fetch(scope: &str, tenant_id: Option<&str>) -> Result<Fetched, TokenError> {
    let mut command = Command::new("az");
    command.args(["account", "get-access-token", "--output", "json", "--scope", scope]);
    if let Some(tenant) = tenant_id {
        command.args(["--tenant", tenant]);
    }
    // Given up, it ends as well.
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => TokenError::AzureCli("az is not installed".to_owned()),
        _ => TokenError::AzureCli(error.to_string()),
    })?;
    if !output.status.success() {
        return Err(TokenError::AzureCli(complaint(&output.stderr)));
    }
    let printed: Printed = serde_json::from_slice(&output.stdout)
        .map_err(|_| TokenError::AzureCli("what it prints is not understood".to_owned()))?;
    let lifetime = Duration::from_secs(printed.expires_on.saturating_sub(clock::unix_ms() / 1000));
    if printed.access_token.is_empty() || lifetime.is_zero() {
        return Err(TokenError::AzureCli("it gives no valid token".to_owned()));
    }
    Ok(Fetched { token: printed.access_token.into(), lifetime })
}

/// Its first line that says something.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line =
        text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it failed without a word");
    super::fetch::cut(line)
}
