//! What the official SDKs do with an error: by default two retries, `retry-after-ms` first, at most 60 s obeyed.

use crate::units::Seconds;

/// By default.
pub(crate) const RETRIES: u32 = 2;
const LONGEST_TOLD: Seconds = 60.0;
const LONGEST_BACK_OFF: Seconds = 8.0;

/// When to call again, after `retries` of at most `most`; `None`: the request is lost. `luck` is U(0,1).
pub(crate) fn again_in(
    status: u16,
    wait: Option<Seconds>,
    (retries, most): (u32, u32),
    luck: f64,
) -> Option<Seconds> {
    let retried = matches!(status, 408 | 409 | 429 | 500..);
    if !retried || retries >= most {
        return None;
    }
    let back_off = || {
        let doubled = (0..retries).fold(0.5, |pause, _| pause * 2.0);
        f64::min(doubled, LONGEST_BACK_OFF) * (1.0 - 0.25 * luck)
    };
    Some(wait.filter(|wait| *wait > 0.0 && *wait <= LONGEST_TOLD).unwrap_or_else(back_off))
}
