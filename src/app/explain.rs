//! Who would serve a request: what an operator asks, put to the pool.

use std::time::{Duration, Instant};

use crate::admin::explain::{ExplainAsk, ExplainDocument};
use crate::balance::{Ask, Obstacle, Pool, Turn};

/// So many deployments are named to whoever asks for one that is not there.
const MOST_NAMED: usize = 20;

/// As an inference request, which nearly all are.
pub(super) fn explain(pool: &Pool, now: Instant, asked: &ExplainAsk) -> Result<ExplainDocument, String> {
    let deployment = match asked.backend.as_deref() {
        Some(backend) if !asked.deployment.is_empty() => pool
            .asked_as(backend, &asked.deployment)
            .ok_or_else(|| format!("there is no such backend, or no {} on it", asked.deployment))?,
        _ => asked.deployment.as_str(),
    };
    let ask = Ask {
        deployment: Some(deployment).filter(|name| !name.is_empty()),
        second: None,
        family: "inference",
        operation: "chat",
        charge: asked.tokens(),
        unlimited: asked.max_tokens == 0,
        conversation: None,
        streamed: false,
        harmless: true,
        lowest_priority: asked.lowest_priority,
        pin: None,
        patience: Duration::ZERO,
        ahead: 0,
    };
    let explanation = pool.explain(now, &ask);
    let unserved = Turn::Not(Obstacle::Unserved);
    if explanation.backends.iter().all(|backend| backend.turn == unserved) {
        let known = pool.deployments().unwrap_or_default();
        let more = known.len().saturating_sub(MOST_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let known = known.iter().take(MOST_NAMED).map(|name| &**name).collect::<Vec<_>>().join(", ");
        return Err(format!("no backend serves {deployment}; these are served: {known}{more}"));
    }
    Ok(ExplainDocument::new(deployment, asked.tokens(), &explanation))
}
