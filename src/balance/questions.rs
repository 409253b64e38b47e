//! What can be asked of the pool without changing it.

use std::sync::Arc;
use std::time::Instant;

use super::Deployments;
use super::attempts::Attempts;
use super::backend::Backend;
use super::choosing;
use super::explain::{self, Explanation};
use super::pool::{Ask, Pool};
use super::routes::{Way, also_serving};
use super::standing::View;

impl Pool {
    /// Whether any backend's settings have this deployment.
    #[must_use]
    pub fn serves(&self, deployment: &str) -> bool {
        self.backends.iter().any(|backend| backend.settings.deployments.there(deployment).is_some())
    }

    /// Who would most likely serve this request if none of those that it has tried did: a connection there is worth
    /// having. Changes nothing.
    #[must_use]
    pub fn next_in_line(&self, now: Instant, ask: &Ask<'_>, attempts: &Attempts) -> Option<usize> {
        let found = self.routes.look(ask.deployment, &self.backends);
        let ways = &*also_serving(ask.second, self.routes.ways(&found), &self.backends);
        choosing::next_in_line(self.view(now, ask, attempts, ways))
    }

    /// Who would serve this request now, in what order, and why each other would not. Changes nothing.
    #[must_use]
    pub fn explain(&self, now: Instant, ask: &Ask<'_>) -> Explanation {
        let found = self.routes.look(ask.deployment, &self.backends);
        let ways = &*also_serving(ask.second, self.routes.ways(&found), &self.backends);
        let (ask, _) = &self.routes.charged(&found, ask);
        explain::explain(self.view(now, ask, &Attempts::default(), ways))
    }

    fn view<'a>(
        &'a self,
        now: Instant,
        ask: &'a Ask<'a>,
        attempts: &'a Attempts,
        ways: &'a [Option<Way>],
    ) -> View<'a> {
        let Self { backends, lanes, groups, .. } = self;
        View { now, ask, attempts, ways, backends, lanes, groups }
    }

    /// The deployments known from settings and traffic, in the callers' names; `None` where no setting names any, so
    /// that nothing is known of what there is.
    #[must_use]
    pub fn deployments(&self) -> Option<Vec<Arc<str>>> {
        let named = |backend: &Backend| matches!(backend.settings.deployments, Deployments::Named(_));
        self.backends.iter().any(named).then(|| self.routes.known_names())
    }

    /// A name of callers that leads to the deployment called `there` on the backend of this name.
    #[must_use]
    pub fn asked_as<'a>(&'a self, backend: &str, there: &'a str) -> Option<&'a str> {
        let backend = self.backends.iter().find(|known| &*known.settings.name == backend)?;
        backend.settings.deployments.asked_as(there)
    }
}
